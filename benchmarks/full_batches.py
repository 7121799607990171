"""How many tokens make a batch full, so that shorter texts get one of their own? `full_tokens` and `keeps_shapes` in the
`Batching` of each engine come from here.

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
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls_runtime import Bundle, Encoder, EncoderOptions
from cls_runtime.bench.peers import texts_of_round
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.spread import times_as_fast
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bench.turns import clocked, in_turns
from cls_runtime.engines.base import Engine, TokenBatch
from cls_runtime.engines.choice import engine_module


class FullAt:
    """An engine whose batches are full at so many tokens, whatever is best for it."""

    def __init__(self, engine: Engine, full_tokens: int) -> None:
        self._engine = engine
        self.name, self.workers, self.providers = engine.name, engine.workers, engine.providers
        self.batching = replace(engine.batching, full_tokens=full_tokens, keeps_shapes=False)

    def padding_tokens(self, batch: TokenBatch) -> int:
        """The engine's."""
        return self._engine.padding_tokens(batch)

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[NDArray[np.float32]]:
        """The engine's."""
        return self._engine.run(batch, outputs)

    def close(self) -> None:
        """The engine's."""
        self._engine.close()


def measure(bundle: Path, *, sides: list[str], sizes: list[int], texts: list[str], rounds: int) -> dict[str, dict[int, list[float]]]:
    """CPU seconds of every round, by side and by the tokens that make a batch full."""
    with contextlib.ExitStack() as stack:
        opened = Bundle.open(bundle)
        encoders: dict[tuple[str, int], Encoder] = {}
        for side in sides:
            engine, variant = side.split(":")
            loaded = engine_module(engine).load(opened, variant=variant, threads=2)
            options = EncoderOptions(variant=variant, on_overflow="truncate")
            for size in sizes:
                encoders[side, size] = stack.enter_context(Encoder.of(opened, FullAt(loaded, size), options))

        def cpu_seconds(turn: tuple[str, int], index: int) -> float:
            encode = functools.partial(encoders[turn].encode, texts_of_round(texts, index, rounds=rounds))
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
