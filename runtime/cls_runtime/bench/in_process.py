"""An `Encoder` in a process of its own, without a server: what a server on the same CPUs is compared with.

    python -m cls_runtime.bench.in_process '{"bundle": ..., "variant": ..., "engine": ..., "threads": ...}'

It says how many threads it has once it has loaded, and then answers `{"texts": [...], "callers": n, "seconds": s}` with the seconds of
every call: of `encode` one after another where `callers` is 0, else of `aencode` by so many callers at once, each of which sends the next
text when it has the last one's vector.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.bench.child_process import ChildProcess, child_process
from cls_runtime.bench.load_streams import LONGEST_PAUSE_S
from cls_runtime.encoder import Encoder

_TRIES = 3


@dataclass(frozen=True, kw_only=True)
class Calls:
    """The seconds of each call of one text, those that all took together, and the CPU seconds of the whole process in them."""

    seconds: tuple[float, ...]
    wall_seconds: float
    cpu_seconds: float

    @property
    def per_second(self) -> float:
        """Texts a second."""
        return len(self.seconds) / self.wall_seconds


class InProcess:
    """An Encoder that waits in its process; it computes nothing between calls."""

    def __init__(self, child: ChildProcess) -> None:
        self._child = child
        self.threads = int(child.answer()["threads"])

    def encode(self, texts: Sequence[str], *, seconds: float) -> Calls:
        """`encode` of one text after another, for so long."""
        return self._calls(texts, callers=0, seconds=seconds)

    def aencode(self, texts: Sequence[str], *, callers: int, seconds: float) -> Calls:
        """`aencode` of one text by so many callers at once, for so long."""
        return self._calls(texts, callers=callers, seconds=seconds)

    def _calls(self, texts: Sequence[str], *, callers: int, seconds: float) -> Calls:
        for _ in range(_TRIES):
            self._child.say({"texts": list(texts), "callers": callers, "seconds": seconds})
            told = self._child.answer()
            if max(told["seconds"], default=0.0) < LONGEST_PAUSE_S:  # else the machine stood still, as no call of one text takes so long
                break
        return Calls(seconds=tuple(told["seconds"]), wall_seconds=told["wall_seconds"], cpu_seconds=told["cpu_seconds"])


@contextmanager
def in_process(
    bundle: str | Path, *, variant: str, engine: str, threads: int, cpus: Sequence[int] = (), device: str | None = None
) -> Iterator[InProcess]:
    """Loads an Encoder in another process, on these CPUs.

    Raises:
        EngineError: it cannot load it.
    """
    options = {"bundle": str(bundle), "variant": variant, "engine": engine, "threads": threads, "device": device}
    with child_process(__name__, json.dumps(options), cpus=cpus) as child:
        yield InProcess(child)


def _encode(encoder: Encoder, texts: Sequence[str], seconds: float) -> list[float]:
    taken: list[float] = []
    end = time.perf_counter() + seconds
    for text in itertools.cycle(texts):
        start = time.perf_counter()
        if start >= end:
            break
        encoder.encode([text])
        taken.append(time.perf_counter() - start)
    return taken


async def _aencode(encoder: Encoder, texts: Sequence[str], seconds: float, callers: int) -> list[float]:
    taken: list[float] = []
    following = itertools.cycle(texts)
    end = time.perf_counter() + seconds

    async def call() -> None:
        while (start := time.perf_counter()) < end:
            await encoder.aencode([next(following)])
            taken.append(time.perf_counter() - start)

    await asyncio.gather(*(call() for _ in range(callers)))
    return taken


def main(arguments: Sequence[str]) -> None:
    """Does what the module's docstring says."""
    options = json.loads(arguments[0])
    with Encoder.load(
        options["bundle"],
        variant=options["variant"],
        engine=options["engine"],
        device=options["device"],
        threads=options["threads"],
        on_overflow="truncate",
    ) as encoder:
        encoder.encode(["a text", "another text that is a little longer"])
        _say({"threads": encoder.info.threads})
        for line in sys.stdin:
            asked = json.loads(line)
            start, cpu = time.perf_counter(), time.process_time()
            if asked["callers"]:
                taken = asyncio.run(_aencode(encoder, asked["texts"], asked["seconds"], asked["callers"]))
            else:
                taken = _encode(encoder, asked["texts"], asked["seconds"])
            spent = {"wall_seconds": time.perf_counter() - start, "cpu_seconds": time.process_time() - cpu}
            _say({**spent, "seconds": [round(value, 6) for value in taken]})


def _say(document: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(document) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
