"""Does the native engine meet its bars? Measures each one beside ONNX Runtime, prints it, and keeps it.

    python benchmarks/native_bars.py BUNDLE --json benchmarks/results/vnni/native_minilm.json     all of them: about ten minutes
    python benchmarks/native_bars.py BUNDLE --bars int8 one_text                                    some; the file keeps the others
    python benchmarks/native_bars.py BUNDLE --quick                                                 too briefly to count

The bundle has int8 and fp32 with native weights. The bars of speed depend on the CPU and on the width of the model; quality is measured by
`benchmarks/precision_ranks.py`. Both engines have the same threads, take turns, and see texts that none of them has seen. Exit code 1 where
a bar is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import random
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import engines
import numpy as np

from cls_runtime import Encoder
from cls_runtime.bench.bars import BarRecord, BarsFile, Figure, bars_table, empty_bars, measure_bars, read_bars
from cls_runtime.bench.plan import PlannedSide
from cls_runtime.bench.spread import spread, times_as_fast
from cls_runtime.bench.starts import starts
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines.cpu import cpu_features
from cls_runtime.engines.native.library import kernels
from cls_runtime.engines.native.load import load
from cls_runtime.errors import ClsError

SIDES = ("native", "onnxruntime")
WIDE = 512  # models from this hidden size on are held to the bars of bert-base's shape
VNNI = {"avx512_vnni", "avx_vnni"}


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much is measured."""

    texts: int = 1000
    rounds: int = 10
    requests: int = 300
    starts: int = 9
    compared_texts: int = 10_000
    quick: bool = False


QUICK = Amounts(texts=100, rounds=2, requests=20, starts=2, compared_texts=300, quick=True)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The bundle and the threads of both engines."""

    bundle: Path
    threads: int
    wide: bool

    @property
    def least_int8(self) -> float:
        """How many times as fast as ONNX Runtime int8 has to be on this CPU."""
        if VNNI & (cpu_features() or frozenset()):
            return 1.25 if self.wide else 1.5
        return 1.0 if self.wide else 1.15

    def encoder(self, engine: str, variant: str = "int8", *, threads: int | None = None) -> Encoder:
        """The bundle on an engine."""
        return Encoder.load(
            self.bundle, engine=engine, variant=variant, threads=self.threads if threads is None else threads, on_overflow="truncate"
        )


def throughput(subject: Subject, amounts: Amounts, *, variant: str, least: float) -> BarRecord:
    """Texts to vectors by `benchmarks/engines.py`."""
    result = engines.measure(
        subject.bundle, engines=SIDES[::-1], variants=[variant], threads=subject.threads, texts=amounts.texts, rounds=amounts.rounds
    )
    seconds = {side.engine: side.seconds for side in result.sides}
    ratio = spread(times_as_fast(seconds["native"], seconds["onnxruntime"]))
    figures = [Figure(name="times as fast as ONNX Runtime", value=round(ratio.median, 3), least=least)]
    figures += [Figure(name=word, value=round(value, 3)) for word, value in (("lowest round", ratio.low), ("highest round", ratio.high))]
    figures += [Figure(name=side, value=round(amounts.texts / statistics.median(seconds[side])), unit="texts/s") for side in SIDES]
    how = f"{amounts.rounds} rounds of {amounts.texts} texts averaging {result.mean_tokens:.1f} tokens, {subject.threads} threads"
    return BarRecord(test=f"text to vector, {variant}", figures=tuple(figures), how=how, quick=amounts.quick)


def int8(subject: Subject, amounts: Amounts) -> BarRecord:
    """Texts a second of int8."""
    return throughput(subject, amounts, variant="int8", least=subject.least_int8)


def fp32(subject: Subject, amounts: Amounts) -> BarRecord:
    """Texts a second of fp32."""
    return throughput(subject, amounts, variant="fp32", least=1.0)


def one_text(subject: Subject, amounts: Amounts) -> BarRecord:
    """The p50 of one text after another, of about 26 and about 200 tokens."""
    figures: list[Figure] = []
    with _both(subject) as encoders:
        for tokens, most in ((26, 0.6), (200, 0.9)):
            texts = _texts_of(encoders["native"], tokens, amounts.requests)
            for encoder in encoders.values():
                encoder.encode(texts[:1])
            samples = in_turns(SIDES, functools.partial(_p50, encoders, texts), rounds=max(2, amounts.rounds // 2))
            ratio = statistics.median(own / other for own, other in zip(samples["native"], samples["onnxruntime"], strict=True))
            figures.append(Figure(name=f"p50 of {tokens} tokens, relative to ONNX Runtime's", value=round(ratio, 3), most=most))
            figures += [Figure(name=side, value=round(1e3 * statistics.median(samples[side]), 3), unit="ms") for side in SIDES]
    how = f"{amounts.requests} requests per round, {subject.threads} threads"
    return BarRecord(test="one text", figures=tuple(figures), how=how, quick=amounts.quick)


def start(subject: Subject, amounts: Amounts) -> BarRecord:
    """A process from its start to its first vector, and the most memory that it held for 1,000 short sentences behind it."""
    sides = [PlannedSide(variant="int8", engine=engine) for engine in SIDES]
    taken = dict(
        zip(SIDES, starts(subject.bundle, sides, _short_sentences(1000), threads=subject.threads, rounds=amounts.starts), strict=True)
    )
    ratio = statistics.median(a / b for a, b in zip(taken["native"].seconds, taken["onnxruntime"].seconds, strict=True))
    peak = max(taken["native"].peak_bytes) / 1e6
    figures = [Figure(name="time to first vector, relative to ONNX Runtime's", value=round(ratio, 3), most=0.6)]
    figures += [Figure(name=side, value=round(statistics.median(taken[side].seconds), 3), unit="s") for side in SIDES]
    figures.append(Figure(name="native, peak resident memory", value=round(peak, 1), unit="MB", most=None if subject.wide else 120))
    figures.append(Figure(name="onnxruntime, peak resident memory", value=round(max(taken["onnxruntime"].peak_bytes) / 1e6, 1), unit="MB"))
    return BarRecord(test="start and memory", figures=tuple(figures), how=f"{amounts.starts} processes each", quick=amounts.quick)


def bits(subject: Subject, amounts: Amounts) -> BarRecord:
    """The same texts sorted, shuffled, in batches of any size, alone, on one and two threads, and on every kernel family of this CPU."""
    texts = docstring_sentences(amounts.compared_texts)
    figures: list[Figure] = []
    families = kernels().usable
    for variant in ("int8", "fp32"):
        with subject.encoder("native", variant) as encoder:
            expected = encoder.encode(texts)
        for name, rows in _other_ways(subject, variant, texts, families):
            differing = int((rows != expected[: len(rows)]).any(1).sum())
            figures.append(Figure(name=f"{variant}, {name}: differing texts", value=differing, most=0))
    how = f"{len(texts)} texts, fewer on portable; kernels {', '.join(families)}"
    return BarRecord(test="bit for bit", figures=tuple(figures), how=how, quick=amounts.quick)


def _other_ways(subject: Subject, variant: str, texts: Sequence[str], families: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    chance = random.Random(0)
    shuffled = chance.sample(range(len(texts)), len(texts))
    by_length = sorted(range(len(texts)), key=lambda place: len(texts[place]))
    with subject.encoder("native", variant, threads=1) as encoder:
        yield "alone, one thread", np.concatenate([encoder.encode([text]) for text in texts])
        for name, order in (("shuffled", shuffled), ("sorted", by_length)):
            rows = np.empty((len(texts), encoder.manifest.width("sentence")), dtype=np.float32)
            rows[order] = encoder.encode([texts[place] for place in order])
            yield f"{name}, one thread", rows
    with subject.encoder("native", variant) as encoder:
        parts, start = [], 0
        while start < len(texts):
            size = chance.randint(1, 200)
            parts.append(encoder.encode(texts[start : start + size]))
            start += size
        yield "batches of any size", np.concatenate(parts)
    for family in families[1:]:
        some = texts if family != "portable" else texts[: len(texts) // 200]
        with _on_family(subject, variant, family) as encoder:
            yield f"kernels {family}", encoder.encode(some)


@contextlib.contextmanager
def _on_family(subject: Subject, variant: str, family: str) -> Iterator[Encoder]:
    bundle = Bundle.open(subject.bundle)
    engine = load(bundle, variant=variant, threads=subject.threads, kernels=family)
    with Encoder.of(bundle, engine, EncoderOptions(variant=variant, on_overflow="truncate")) as encoder:
        yield encoder


@contextlib.contextmanager
def _both(subject: Subject) -> Iterator[Mapping[str, Encoder]]:
    with contextlib.ExitStack() as stack:
        yield {engine: stack.enter_context(subject.encoder(engine)) for engine in SIDES}


def _short_sentences(count: int) -> list[str]:
    """Sentences of about 20 tokens, as those that throughput is measured with."""
    return [text for text in docstring_sentences(2 * count) if len(text.split()) <= engines.LONGEST_WORDS][:count]


def _texts_of(encoder: Encoder, tokens: int, count: int) -> list[str]:
    """Distinct texts of exactly so many tokens, special ones included, where words of the sentences give them."""
    words = " ".join(docstring_sentences(4000)).split()
    texts: list[str] = []
    for place in range(0, len(words) - tokens, 7):
        for following in range(place + tokens // 2, place + tokens):
            text = " ".join(words[place:following])
            found = len(encoder.tokens([text])[0].tokens)
            if found >= tokens:
                texts += [text] * (found == tokens)
                break
        if len(texts) == count:
            break
    return texts


def _p50(encoders: Mapping[str, Encoder], texts: Sequence[str], side: str, _: int) -> float:
    return statistics.median(clocked(functools.partial(encoders[side].encode, [text]))[0] for text in texts)


BARS: Mapping[str, Callable[[Subject, Amounts], BarRecord]] = {
    "int8": int8,
    "fp32": fp32,
    "one_text": one_text,
    "start": start,
    "bits": bits,
}


def table(held: BarsFile) -> str:
    """The bars as docs/native.md has them."""
    from cls_runtime.bench.table import markdown

    made = bars_table(held, tuple(BARS))
    return f"{markdown(made)}\n\n{made.caption}"


def read(path: Path) -> BarsFile:
    """The file of a run."""
    return read_bars(path)


def main() -> int:
    """Measures and says each bar."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--bars", nargs="+", choices=BARS, default=list(BARS), metavar="BAR", help=f"of {', '.join(BARS)} (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="too briefly to count")
    parser.add_argument("--json", type=Path, help="keeps every bar; those that are not measured stay as they are")
    parser.add_argument("--texts", type=int, help=f"of a round of int8 and fp32 (default: {Amounts.texts})")
    parser.add_argument("--rounds", type=int, help=f"default: {Amounts.rounds}")
    options = parser.parse_args()
    manifest = read_manifest(options.bundle)
    subject = Subject(bundle=options.bundle, threads=options.threads, wide=manifest.hidden_size >= WIDE)
    amounts = QUICK if options.quick else Amounts()
    amounts = replace(amounts, texts=options.texts or amounts.texts, rounds=options.rounds or amounts.rounds)
    try:
        empty = empty_bars(fingerprint=manifest.fingerprint, variant="int8", cpus=f"engine threads: {options.threads}")
        chosen = {key: functools.partial(BARS[key], subject, amounts) for key in options.bars}
        return 0 if measure_bars(chosen, path=options.json, empty=empty, say=functools.partial(print, flush=True)) else 1
    except ClsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
