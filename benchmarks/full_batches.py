"""How many tokens make a batch full, so that shorter texts get one of their own? `FULL_TOKENS` and
`KERNELS_FOR_EACH_SHAPE` in `encoding/batching.py` come from here.

    python benchmarks/full_batches.py BUNDLE --sides onnxruntime:int8 openvino:int8 --json full_batches.json

Text to vectors, all sizes on all sides in one process and in turns, each round without another part of the texts. It counts the CPU time
of the process, which sees every thread of an engine and little of what else the machine does.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import statistics
import time
from pathlib import Path
from unittest import mock

from cls_runtime import Encoder
from cls_runtime.bench.peers import texts_of_round
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.spread import times_as_fast
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.encoding import batching


def measure(bundle: Path, *, sides: list[str], sizes: list[int], texts: list[str], rounds: int) -> dict[str, dict[int, list[float]]]:
    """CPU seconds of every round, by side and by the tokens that make a batch full."""
    with contextlib.ExitStack() as stack:
        encoders = {
            side: stack.enter_context(Encoder.load(bundle, engine=engine, variant=variant, threads=2, on_overflow="truncate"))
            for side, (engine, variant) in ((side, side.split(":")) for side in sides)
        }

        def cpu_seconds(turn: tuple[str, int], index: int) -> float:
            side, size = turn
            encode = functools.partial(encoders[side].encode, texts_of_round(texts, index, rounds=rounds))
            with mock.patch.multiple(batching, FULL_TOKENS=size, KERNELS_FOR_EACH_SHAPE=frozenset()):
                return clocked(encode, clock=time.process_time)[0]

        samples = in_turns(itertools.product(sides, sizes), cpu_seconds, rounds=1 + rounds)
    # The first round is for warming up.
    return {side: {size: list(samples[side, size][1:]) for size in sizes} for side in sides}


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--sides", nargs="+", default=["onnxruntime:fp32", "onnxruntime:int8"], metavar="ENGINE:VARIANT")
    parser.add_argument("--sizes", nargs="+", type=int, default=[128, 256, 512, 1024], help="tokens (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    texts = docstring_sentences(options.texts)
    samples = measure(options.bundle, sides=options.sides, sizes=options.sizes, texts=texts, rounds=options.rounds)
    for side, by_size in samples.items():
        base = by_size[options.sizes[0]]
        for size, seconds in by_size.items():
            ratio = statistics.median(times_as_fast(seconds, base))
            print(f"{side:20} full at {size:5} tokens: {statistics.median(seconds):.3f} CPU s, {ratio:.2f} x {options.sizes[0]}'s speed")
    if options.json is not None:
        write_samples(options.json, samples)


if __name__ == "__main__":
    main()
