"""How long from process start to the first vector? And what do 1, 2 and 8 texts take once it is warm?

python benchmarks/cold_start.py BUNDLE --engine onnxruntime --variant int8
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from cls_runtime import Encoder

FIRST_VECTOR = """
import sys
from cls_runtime import Encoder
Encoder.load(sys.argv[1], engine=sys.argv[2], variant=sys.argv[3]).encode(["hello"])
"""
TEXT = "two dogs are running through the snow beside a frozen lake"


def cold_start_s(bundle: Path, *, engine: str, variant: str, runs: int) -> list[float]:
    """Seconds of whole processes: start, import, load, one vector, exit."""
    seconds: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", FIRST_VECTOR, str(bundle), engine, variant], check=True)
        seconds.append(time.perf_counter() - start)
    return seconds


def latency_ms(encoder: Encoder, count: int, *, runs: int) -> list[float]:
    """Milliseconds of calls with `count` texts each."""
    texts = [f"{TEXT} {index}" for index in range(count)]
    samples: list[float] = []
    for _ in range(runs):
        start = time.perf_counter()
        encoder.encode(texts)
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--runs", type=int, default=10)
    options = parser.parse_args()
    seconds = cold_start_s(options.bundle, engine=options.engine, variant=options.variant, runs=options.runs)
    print(f"process start to first vector: median {statistics.median(seconds):.2f} s, best {min(seconds):.2f} s of {options.runs}")
    with Encoder.load(options.bundle, engine=options.engine, variant=options.variant) as encoder:
        print(encoder)
        for count in (1, 2, 8):
            samples = sorted(latency_ms(encoder, count, runs=20 * options.runs)[options.runs :])
            print(f"{count} texts: median {statistics.median(samples):.2f} ms, 99% within {samples[int(len(samples) * 0.99)]:.2f} ms")


if __name__ == "__main__":
    main()
