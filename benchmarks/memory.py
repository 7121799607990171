"""Does memory grow with the corpus? Streams texts of random lengths and prints the resident size on the way.

    python benchmarks/memory.py BUNDLE --engine onnxruntime --texts 200000
    python benchmarks/memory.py BUNDLE --token-budget 4096 --texts 120 --shortest-words 500     # the peak: batches of the longest texts

Exits 1 where the resident size at the end is more than 5% above what it was after 10,000 texts. Any bundle does: what could grow with the
corpus is what the runtime and the engine hold, not the weights, so a small model shows it soonest. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cls_runtime import Encoder
from cls_runtime.bench.resident import peak_bytes, resident_bytes

SETTLED_TEXTS = 10_000
ALLOWED_GROWTH = 1.05
MIB = 2**20
WORDS = "the a cat dog house river of and in was morning unbelievable walked through seventeen quietly between".split()


def random_texts(count: int, *, longest_words: int, shortest_words: int = 1) -> Iterator[str]:
    """Texts of `shortest_words` to `longest_words` words, no two alike, the same in every run."""
    chance = random.Random(0)
    for index in range(count):
        yield f"{index} " + " ".join(chance.choices(WORDS, k=chance.randint(shortest_words, max(shortest_words, longest_words))))


def main() -> int:
    """Parses the command line, streams, prints; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--engine", default="auto")
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--token-budget", type=int, default=1024)
    parser.add_argument("--texts", type=int, default=200_000)
    parser.add_argument("--shortest-words", type=int, default=1)
    parser.add_argument("--longest-words", type=int, default=100)
    options = parser.parse_args()
    if not resident_bytes():
        parser.error("this system has no /proc, which says what the process holds; run it on Linux")
    done, settled, next_line, start = 0, 0.0, SETTLED_TEXTS, time.perf_counter()
    with Encoder.load(
        options.bundle,
        engine=options.engine,
        variant=options.variant,
        threads=options.threads,
        token_budget=options.token_budget,
        on_overflow="truncate",
    ) as encoder:
        print(encoder)
        texts = random_texts(options.texts, longest_words=options.longest_words, shortest_words=options.shortest_words)
        for block in encoder.stream(texts):
            done += len(block)
            if done >= next_line:
                next_line += max(SETTLED_TEXTS, options.texts // 20)
                held = resident_bytes() / MIB
                settled = settled or held
                print(f"{done:8} texts  {held:7.1f} MiB  {time.perf_counter() - start:6.1f} s", flush=True)
        last = resident_bytes() / MIB
    peak = peak_bytes() / MIB
    if not settled:
        print(f"peak {peak:.1f} MiB; growth needs more than {SETTLED_TEXTS} texts")
        return 0
    print(f"after {SETTLED_TEXTS} texts {settled:.1f} MiB, at the end {last:.1f} MiB ({last / settled:.3f}), peak {peak:.1f} MiB")
    return 0 if last <= ALLOWED_GROWTH * settled else 1


if __name__ == "__main__":
    sys.exit(main())
