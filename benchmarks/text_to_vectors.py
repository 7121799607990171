"""How fast is a list of texts a matrix of vectors, here and with what people would use instead?

`cls-bench BUNDLE --against PEER` measures one bundle against any peer; this script runs all of them, one after the other, for the table in
README.md: at most one peer's processes are alive beside this project's, and every ratio comes from one run in which the sides took turns.

    python benchmarks/text_to_vectors.py BUNDLE --checkpoint DIR --json benchmarks/results/avx2/peers_minilm.json
    python benchmarks/text_to_vectors.py BUNDLE --checkpoint DIR --peers openvino --json benchmarks/results/avx2/peers_minilm.json
    python benchmarks/text_to_vectors.py --show benchmarks/results/vnni/peers_minilm.json benchmarks/results/vnni/peers_bert_base.json

Every peer pools as the bundle does, CLS or mean. With --peers, the file keeps what it has of the others. --show prints the table of one or
more files.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.bench.machine import this_host
from cls_runtime.bench.peer_environments import OURS
from cls_runtime.bench.peer_sides import PeerSide
from cls_runtime.bench.peers import PEERS, PeerComparison, SpeedRatio, compare_with_peers
from cls_runtime.bench.results import Host, write_samples
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Pooling
from cls_runtime.bundle.typed_json import typed

ONNX_RUNTIME, OPENVINO = f"{OURS}:onnxruntime:", f"{OURS}:openvino:"
# The first bar of each line is for this model, the second for any other.
MINILM = "all-MiniLM-L6-v2"
OUR_SIDES = ("onnxruntime:fp32", "onnxruntime:int8", "openvino:fp32", "openvino:int8", "openvino:bf16")
FP32_PEERS = (
    *("transformers:as_given", "transformers:sorted", "sentence-transformers:torch", "sentence-transformers:onnx"),
    *("optimum:fp32", "fastembed:fp32", "ctranslate2:fp32_sorted", "openvino:fp32_sorted"),
)


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line of the table: the fastest of our sides whose name has `ours` in it against a peer's, and the bars for the two models."""

    title: str
    theirs: tuple[str, ...]
    ours: tuple[str, ...] = (ONNX_RUNTIME, OPENVINO)
    bars: tuple[float | None, float | None] = (None, None)


# Bars for all-MiniLM-L6-v2 and for a model of bert-base's shape, both of the CLS row: the last layer then computes little beside it, as no
# peer's does, and with mean pooling it computes every row as theirs do. A peer's other settings are there without a bar.
LINES = (
    Line(title="the usual transformers loop, fp32", theirs=("transformers:as_given",), bars=(9.0, 7.5)),
    Line(title="the same, sorted by length", theirs=("transformers:sorted",)),
    Line(title="sentence-transformers, ONNX int8", theirs=("sentence-transformers:onnx_int8",), bars=(2.4, 1.75)),
    Line(title="optimum, int8", theirs=("optimum:int8",)),
    Line(title="optimum, int8, sorted by hand", theirs=("optimum:int8_sorted",)),
    Line(title="fastembed, int8 file", theirs=("fastembed:int8",), bars=(4.5, 3.0)),
    Line(title="the same, sorted by hand, batches of 32", theirs=("fastembed:int8_sorted",)),
    Line(title="CTranslate2, int8", theirs=("ctranslate2:int8",)),
    Line(title="CTranslate2, int8, sorted by hand", theirs=("ctranslate2:int8_sorted",), bars=(1.6, 1.3)),
    Line(title="OpenVINO, int8 (NNCF), full model", theirs=("openvino:int8",)),
    Line(title="the same, sorted by hand, two streams", theirs=("openvino:int8_sorted",), bars=(1.15, 1.1)),
    Line(title="ONNX Runtime alone against that OpenVINO", theirs=("openvino:int8_sorted",), ours=(ONNX_RUNTIME,), bars=(1.0, 0.95)),
    Line(title="fp32 against the fastest fp32 peer", theirs=FP32_PEERS, ours=(f"{ONNX_RUNTIME}fp32", f"{OPENVINO}fp32"), bars=(1.1, 1.05)),
)


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A results file: the machine, the model, and a comparison for each peer, all of one pooling."""

    model: str
    host: Host
    comparisons: tuple[PeerComparison, ...]

    @property
    def pooling(self) -> Pooling:
        """What the vectors of all sides are."""
        return self.comparisons[0].pooling if self.comparisons else "cls"

    @property
    def title(self) -> str:
        """The model's name, and its pooling where that is not CLS."""
        return self.model if self.pooling == "cls" else f"{self.model}, {self.pooling} pooling"


def best_ratio(line: Line, measured: Measured) -> tuple[SpeedRatio, PeerSide, PeerSide] | None:
    """The fastest of our sides against the fastest of theirs, the lowest ratio over the peers; None where none was measured."""
    candidates = []
    for comparison in measured.comparisons:
        sides = {side.name: side for side in comparison.sides if side.texts_per_second is not None}
        mine = [side for side in sides.values() if side.name.startswith(line.ours)]
        fastest = max(mine, key=lambda side: side.texts_per_second or 0, default=None)
        candidates += [
            (ratio, fastest, sides[ratio.theirs])
            for ratio in comparison.ratios
            if fastest is not None and ratio.ours == fastest.name and ratio.theirs in line.theirs
        ]
    return min(candidates, key=lambda item: item[0].median, default=None)


def table(measured: Measured) -> str:
    """The lines for one model, in Markdown; bars only where they are for its pooling."""
    column = 0 if measured.model == MINILM else 1
    rows = [
        "| compared with | ours, theirs, texts/s | parity of both | times as fast (range of the rounds) | bar |",
        "|---|---|---|---|---|",
    ]
    for line in LINES:
        best = best_ratio(line, measured)
        if best is None:
            reasons = {side.failed for item in measured.comparisons for side in item.sides if side.name in line.theirs and side.failed}
            rows.append(f"| {line.title} | not timed: {'; '.join(sorted(reasons)) or 'not measured'} | | | |")
            continue
        ratio, ours, theirs = best
        bar = line.bars[column] if measured.pooling == "cls" else None
        verdict = "" if bar is None else f"{bar:g}" if ratio.median >= bar else f"{bar:g}: missed"
        rows.append(
            f"| {line.title} | {_speed(ours)}, {_speed(theirs)} | {_parity(ours)}, {_parity(theirs)} "
            f"| **{ratio.median:.2f}** ({ratio.low:.2f} to {ratio.high:.2f}) | {verdict} |"
        )
    return "\n".join(rows)


def _speed(side: PeerSide) -> str:
    return f"{side.name.removeprefix(f'{OURS}:')} {side.texts_per_second:.0f}"


def _parity(side: PeerSide) -> str:
    return "" if side.parity is None else f"{side.parity.mean_cosine:.4f}"


def read(path: Path) -> Measured:
    """A results file."""
    return typed(json.loads(path.read_text(encoding="utf-8")), Measured, path.name)


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints the table, or prints it from results files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, nargs="?")
    parser.add_argument("--checkpoint", type=Path, help="the checkpoint that the bundle was made from, for the peers")
    parser.add_argument("--model", help="the model's name in the table (default: all-MiniLM-L6-v2)", default=MINILM)
    parser.add_argument("--texts", type=int, default=500, help="sentences from Python's own docstrings (default: %(default)s)")
    parser.add_argument("--ours", nargs="+", default=list(OUR_SIDES), metavar="ENGINE:VARIANT", help="default: %(default)s")
    parser.add_argument("--peers", nargs="+", default=list(PEERS), metavar="PEER[:SETTINGS]", help="default: all")
    parser.add_argument("--threads", type=int, default=2, help="of each side (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--environments", type=Path, help="the folder for the peers' environments (default: the user's cache folder)")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="measure nothing, print the tables of these files")
    options = parser.parse_args(argv)
    if options.show:
        for path in options.show:
            measured = read(path)
            print(f"{measured.title}:\n\n{table(measured)}\n")
        return 0
    if options.bundle is None or options.checkpoint is None:
        parser.error("measuring needs BUNDLE and --checkpoint")
    held = read(options.json).comparisons if options.json is not None and options.json.exists() else ()
    pooling = Bundle.open(options.bundle).manifest.pooling
    if other := {comparison.pooling for comparison in held} - {pooling}:
        parser.error(f"{options.json} has figures of {', '.join(other)} pooling, the bundle's is {pooling}; name another file")
    comparisons = {_peer(comparison): comparison for comparison in held}
    for peer in options.peers:
        comparison = compare_with_peers(
            options.bundle,
            checkpoint=options.checkpoint,
            texts=docstring_sentences(options.texts),
            ours=options.ours,
            peers=[peer],
            threads=options.threads,
            rounds=options.rounds,
            environments=options.environments,
            progress=lambda line: print(line, file=sys.stderr, flush=True),
        )
        comparisons[_peer(comparison)] = comparison
        measured = Measured(model=options.model, host=this_host(), comparisons=tuple(comparisons.values()))
        if options.json is not None:
            write_samples(options.json, measured)
    print(table(measured))
    return 0


def _peer(comparison: PeerComparison) -> str:
    return comparison.sides[-1].name.partition(":")[0]


if __name__ == "__main__":
    sys.exit(main())
