"""What does `aencode` cost beside `encode`, and what does a small request wait beside a large one? `ROUND_SECONDS` and `SHARE_SECONDS`
in `encoding/pace.py` come from here.

    python benchmarks/merging_turns.py BUNDLE --variant int8 --json merging_turns.json

One process, one event loop, the phases in turns. A single is a request of one text that is sent, awaited and followed by a pause; the
bulk is a request of many texts that is sent again as soon as it is done.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from cls_runtime import Encoder
from cls_runtime.bench.results import write_samples
from cls_runtime.bench.texts import docstring_sentences

PAUSE_S = 0.005
TASKS = 32
SOME_TEXTS = 40


class Phases:
    """What is measured, on one Encoder, for `seconds` each. Each gives named samples: milliseconds of a request, or texts a second."""

    def __init__(self, encoder: Encoder, texts: list[str], *, bulk: int, seconds: float) -> None:
        self._encoder = encoder
        self._texts = itertools.cycle(texts)
        self._bulk_texts = texts[:bulk]
        self._seconds = seconds

    def all(self) -> dict[str, Callable[[], Awaitable[dict[str, list[float]]]]]:
        """Each phase by its name."""
        return {
            "encode of one text, ms": self._encode_one,
            "aencode of one text, ms": self._singles_without_pause,
            f"encode of {SOME_TEXTS} texts, ms": self._encode_some,
            f"aencode of {SOME_TEXTS} texts, ms": self._aencode_some,
            f"{TASKS} tasks of one text, texts/s": self._many_tasks,
            "bulk alone, texts/s": self._bulk_alone,
            "singles alone, ms": self._singles_alone,
            "singles beside a bulk, ms": self._singles_beside_a_bulk,
        }

    def _next(self, count: int = 1) -> list[str]:
        return list(itertools.islice(self._texts, count))

    async def _encode_one(self) -> dict[str, list[float]]:
        return {"": self._clocked(lambda: self._encoder.encode(self._next()))}

    async def _encode_some(self) -> dict[str, list[float]]:
        return {"": self._clocked(lambda: self._encoder.encode(self._next(SOME_TEXTS)))}

    def _clocked(self, work: Callable[[], object]) -> list[float]:
        end, found = time.perf_counter() + self._seconds, []
        while (begun := time.perf_counter()) < end:
            work()
            found.append((time.perf_counter() - begun) * 1e3)
        return found

    async def _aencode_some(self) -> dict[str, list[float]]:
        return {"": await self._singles(texts=SOME_TEXTS)}

    async def _singles_without_pause(self) -> dict[str, list[float]]:
        return {"": await self._singles()}

    async def _singles_alone(self) -> dict[str, list[float]]:
        return {"": await self._singles(pause_s=PAUSE_S)}

    async def _singles(self, *, texts: int = 1, pause_s: float | None = None) -> list[float]:
        end, found = time.perf_counter() + self._seconds, []
        while (begun := time.perf_counter()) < end:
            await self._encoder.aencode(self._next(texts))
            found.append((time.perf_counter() - begun) * 1e3)
            if pause_s is not None:
                await asyncio.sleep(pause_s)
        return found

    async def _many_tasks(self) -> dict[str, list[float]]:
        begun = time.perf_counter()
        milliseconds = await asyncio.gather(*(self._singles() for _ in range(TASKS)))
        count = sum(map(len, milliseconds))
        return {"": [count / (time.perf_counter() - begun)], " (a request's ms)": [each for of_task in milliseconds for each in of_task]}

    async def _bulk_alone(self) -> dict[str, list[float]]:
        done: list[float] = []
        begun = time.perf_counter()
        while time.perf_counter() < begun + self._seconds:
            await self._encoder.aencode(self._bulk_texts)
            done.append(len(self._bulk_texts))
        return {"": [sum(done) / (time.perf_counter() - begun)]}

    async def _singles_beside_a_bulk(self) -> dict[str, list[float]]:
        finished: list[tuple[float, int]] = []

        async def bulk() -> None:
            while True:
                await self._encoder.aencode(self._bulk_texts)
                finished.append((time.perf_counter(), len(self._bulk_texts)))

        begun = time.perf_counter()
        running = asyncio.create_task(bulk())
        await asyncio.sleep(0.05)
        found = await self._singles(pause_s=PAUSE_S)
        await asyncio.sleep(0)
        while not finished:
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        return {"": found, " (the bulk's texts/s)": [sum(count for _, count in finished) / (finished[-1][0] - begun)]}


async def measure(phases: Phases, *, rounds: int) -> dict[str, list[float]]:
    """The samples of every phase, all rounds together, after one for warming up."""
    samples: dict[str, list[float]] = {}
    for index in range(1 + rounds):
        for name, phase in phases.all().items():
            for kind, values in (await phase()).items():
                samples.setdefault(name + kind, []).extend(values if index else [])
    return samples


def line(name: str, values: list[float]) -> str:
    """A phase in words."""
    if "texts/s" in name:
        return f"{name:52} {statistics.median(values):8.0f}   ({min(values):.0f} to {max(values):.0f})"
    ordered = sorted(values)
    p50, p95, p99 = (ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.95, 0.99))
    return f"{name:52} {p50:8.2f}   p95 {p95:.2f}   p99 {p99:.2f}   n {len(values)}"


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--variant", default="int8")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--bulk", type=int, default=2048, help="texts of the large request")
    parser.add_argument("--seconds", type=float, default=3, help="of each phase in each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    texts = docstring_sentences(options.bulk)
    with Encoder.load(options.bundle, variant=options.variant, threads=options.threads, on_overflow="truncate") as encoder:
        samples = asyncio.run(measure(Phases(encoder, texts, bulk=options.bulk, seconds=options.seconds), rounds=options.rounds))
    for name, values in samples.items():
        print(line(name, values))
    if options.json is not None:
        write_samples(options.json, samples)


if __name__ == "__main__":
    main()
