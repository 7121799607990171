"""How many tokens make a batch full, so that shorter texts get one of their own? `FULL_TOKENS` and
`KERNELS_FOR_EACH_SHAPE` in `batching.py` come from here.

    python benchmarks/full_batches.py BUNDLE --sides onnxruntime:int8 openvino:int8 --json benchmarks/results/full_batches.json

Text to vectors, all sizes on all sides in one process and in turns, each round without another eighth of the texts. It counts the CPU time
of the process, which sees every thread of an engine and little of what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from unittest import mock

from cls_runtime import Encoder
from cls_runtime.bench.peers import texts_of_round
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.encoding import batching


def measure(bundle: Path, *, sides: list[str], sizes: list[int], texts: list[str], rounds: int) -> dict[str, dict[int, list[float]]]:
    """CPU seconds of every round, by side and by the tokens that make a batch full."""
    samples: dict[str, dict[int, list[float]]] = {side: {size: [] for size in sizes} for side in sides}
    encoders = {
        side: Encoder.load(bundle, engine=engine, variant=variant, threads=2, on_overflow="truncate")
        for side, (engine, variant) in ((side, side.split(":")) for side in sides)
    }
    for index in range(rounds + 1):
        part = texts_of_round(texts, index, rounds=rounds)
        turns = [(side, size) for side in sides for size in sizes]
        for side, size in turns[:: -1 if index % 2 else 1]:
            with mock.patch.multiple(batching, FULL_TOKENS=size, KERNELS_FOR_EACH_SHAPE=frozenset()):
                start = time.process_time()
                encoders[side].encode(part)
                if index:  # the first round is for warming up
                    samples[side][size].append(time.process_time() - start)
    for encoder in encoders.values():
        encoder.close()
    return samples


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
            ratio = statistics.median(first / this for first, this in zip(base, seconds, strict=True))
            print(f"{side:20} full at {size:5} tokens: {statistics.median(seconds):.3f} CPU s, {ratio:.2f} x {options.sizes[0]}'s speed")
    if options.json is not None:
        options.json.write_text(json.dumps(samples, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
