"""Which engine computes which variant fastest on this machine?

    python benchmarks/engines.py BUNDLE
    python benchmarks/engines.py BUNDLE --variants int8 --texts 1000 --rounds 8 --json result.json

docs/adr/0006-engines.md has its figures, and what they decide: which engine is `auto`'s first.

Text to vectors, all engines in one process and in turns, in an order that changes every round; who is not on turn computes nothing. Every
round has texts of its own, as a corpus has: an engine that keeps compiled kernels meets new shapes too. Vectors are compared before
anything is timed, and every sample is kept.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime import Encoder
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.spread import spread, times_as_fast
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.bundle.parity import parity_figures

# Below it the two engines do not compute the same model, and their times mean nothing.
LEAST_MEAN_COSINE = 0.999
# Python's docstrings have many technical words; sentences up to this length have about 25 tokens, as a sentence of other texts has.
LONGEST_WORDS = 22


@dataclass(frozen=True, kw_only=True)
class EngineSamples:
    """An engine with a variant: the seconds of each round, and the mean cosine to the first engine with that variant."""

    engine: str
    variant: str
    mean_cosine: float
    seconds: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything measured; each round of each side had `texts` texts."""

    bundle: str
    machine: str
    threads: int
    texts: int
    mean_tokens: float
    sides: tuple[EngineSamples, ...]


def measure(bundle: Path, *, engines: Sequence[str], variants: Sequence[str], threads: int, texts: int, rounds: int) -> Result:
    """Loads every side, compares their vectors on the first texts, and times them on the others in turns.

    Raises:
        RuntimeError: two engines give other vectors, or there are too few texts.
        ClsError: an engine or a variant is not there.
    """
    needed = texts * (rounds + 1)
    short = [text for text in docstring_sentences(2 * needed) if len(text.split()) <= LONGEST_WORDS][:needed]
    if len(short) < needed:
        raise RuntimeError(f"{rounds} rounds of {texts} texts need {needed}, there are {len(short)}; take fewer")
    parts = [short[start : start + texts] for start in range(0, needed, texts)]
    with contextlib.ExitStack() as stack:
        encoders: dict[tuple[str, str], Encoder] = {}
        mean_cosines: dict[tuple[str, str], float] = {}
        for variant, engine in itertools.product(variants, engines):
            encoder = stack.enter_context(Encoder.load(bundle, engine=engine, variant=variant, threads=threads, on_overflow="truncate"))
            encoders[engine, variant] = encoder
            rows = encoder.encode(parts[0])
            reference = rows if engine == engines[0] else encoders[engines[0], variant].encode(parts[0])
            mean_cosine = mean_cosines[engine, variant] = parity_figures(reference, rows).mean_cosine
            if mean_cosine < LEAST_MEAN_COSINE:
                raise RuntimeError(f"{variant} on {engine} has mean cosine {mean_cosine:.6f} to {engines[0]}: another model")
        mean_tokens = encoder.last_report.tokens / texts
        seconds = in_turns(
            encoders, lambda side, index: clocked(functools.partial(encoders[side].encode, parts[1 + index]))[0], rounds=rounds
        )
    return Result(
        bundle=bundle.name,
        machine=platform.machine(),
        threads=threads,
        texts=texts,
        mean_tokens=mean_tokens,
        sides=tuple(
            EngineSamples(engine=engine, variant=variant, mean_cosine=mean_cosines[engine, variant], seconds=taken)
            for (engine, variant), taken in seconds.items()
        ),
    )


def report(result: Result) -> list[str]:
    """The result for people: texts per second, and for each variant how much faster the fastest engine is than each other."""
    lines = [f"{result.bundle}: {result.threads} threads, rounds of {result.texts} texts of mean {result.mean_tokens:.1f} tokens"]
    for side in result.sides:
        speed = result.texts / statistics.median(side.seconds)
        lines.append(f"  {side.variant:5} {side.engine:12} {speed:7.0f} texts/s  mean cosine {side.mean_cosine:.7f}")
    for variant in dict.fromkeys(side.variant for side in result.sides):
        first, *others = sorted(
            (side for side in result.sides if side.variant == variant), key=lambda side: statistics.median(side.seconds)
        )
        for other in others:
            ratio = spread(times_as_fast(first.seconds, other.seconds))
            lines.append(f"  {variant}: {first.engine} is {ratio.median:.2f} times {other.engine} ({ratio.low:.2f} to {ratio.high:.2f})")
    return lines


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engines", nargs="+", default=["onnxruntime", "openvino"], help="default: %(default)s")
    parser.add_argument("--variants", nargs="+", default=["int8", "fp32"], help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--texts", type=int, default=400, help="in each round (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    result = measure(
        options.bundle,
        engines=options.engines,
        variants=options.variants,
        threads=options.threads,
        texts=options.texts,
        rounds=options.rounds,
    )
    print(*report(result), sep="\n")
    if options.json:
        write_samples(options.json, result)


if __name__ == "__main__":
    main()
