"""How long a request takes while others wait too: callers that send one text, wait for its vector, and send the next."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Sequence

from cls_runtime.bench.loaded import Loaded
from cls_runtime.bench.results import CallMode, Latency
from cls_runtime.encoder import Encoder
from cls_runtime.errors import ClsError
from cls_runtime.verifying.vector_checks import as_computed

MODES: tuple[CallMode, ...] = ("encode", "aencode")


def latency(side: Loaded, texts: Sequence[str], lengths: Sequence[int], *, mode: CallMode, callers: int, requests: int) -> Latency:
    """`callers` at once, each with `requests` requests of one text. `lengths` are the texts' in tokens; texts repeat where they are few.

    Raises:
        ClsError: a request failed.
    """
    order = [index % len(texts) for index in range(callers * requests)]
    shares = [[texts[index] for index in order[caller::callers]] for caller in range(callers)]
    measure = _threads if mode == "encode" else _tasks
    measure(side.encoder, [share[:1] for share in shares])  # a warm-up
    start = time.perf_counter()
    seconds = measure(side.encoder, shares)
    return Latency(
        side=side.name,
        mode=mode,
        callers=callers,
        threads=side.threads,
        wall_seconds=time.perf_counter() - start,
        multiply_adds=side.multiply_adds([lengths[index] for index in order], batches=len(order)),
        seconds=tuple(seconds),
    )


def _threads(encoder: Encoder, shares: Sequence[Sequence[str]]) -> list[float]:
    """One thread per caller."""
    barrier = threading.Barrier(len(shares))
    seconds: list[float] = []
    failures: list[ClsError] = []

    def call(share: Sequence[str]) -> None:
        barrier.wait()
        try:
            for text in share:
                start = time.perf_counter()
                as_computed(encoder, [text])
                seconds.append(time.perf_counter() - start)
        except ClsError as error:
            failures.append(error)

    callers = [threading.Thread(target=call, args=(share,)) for share in shares]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    if failures:
        raise failures[0]
    return seconds


def _tasks(encoder: Encoder, shares: Sequence[Sequence[str]]) -> list[float]:
    """One task per caller, all on one event loop."""
    seconds: list[float] = []
    width = encoder.manifest.width("sentence")

    async def call(share: Sequence[str]) -> None:
        for text in share:
            start = time.perf_counter()
            await encoder.aencode([text], normalize=False, prompt="", dimensions=width)  # as_computed
            seconds.append(time.perf_counter() - start)

    async def everybody() -> None:
        await asyncio.gather(*(call(share) for share in shares))

    asyncio.run(everybody())
    return seconds
