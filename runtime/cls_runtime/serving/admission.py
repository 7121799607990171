"""What the server takes on: no more work than it can do within a time, and no more bytes of bodies than it can hold."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from cls_runtime.encoder import Encoder
from cls_runtime.serving.refusal import Refusal

Value = TypeVar("Value")

# For so long a full queue is held to be full without another look.
LOOK_SECONDS = 0.005
# A request of at most so many texts waits for one turn of each of the others, a larger one for all that they have left.
SMALL_INPUTS = 32
# All bodies that are being read, or whose texts wait, in bodies of the largest size.
BODIES_HELD = 16
# Whoever sends no more than this is not refused because others send large bodies, or slowly.
SMALL_BODY_BYTES = 2**16
# Requests that wait for their text to be tokenized, or ids to be decoded, which is done for one of them at a time.
WAITING_FOR_TOKENIZER = 64


class Admission:
    """Refuses what would have to wait longer than `max_queue_ms`, before anything of it is queued."""

    def __init__(self, encoders: Sequence[Encoder], *, max_queue_ms: float) -> None:
        self._encoders = tuple(encoders)
        self._most_s = max_queue_ms / 1e3
        self._tokenizing = asyncio.Semaphore(1)
        self._looked = -LOOK_SECONDS
        self._full: Refusal | None = None
        self._wait_for_tokenizer = 0

    def waits_s(self, inputs: int, encoder: Encoder | None = None) -> float:
        """How long a request of so many inputs would wait for an Encoder, by the engines' measured pace; None for the least busy one.

        The Encoders share the threads and take turns at them, so that the work of another holds up as much as there is of one's own.
        """
        small = inputs <= SMALL_INPUTS
        waits = [queue.turn_seconds if small else queue.seconds for queue in (one.queue for one in self._encoders)]
        own = min(waits) if encoder is None else waits[self._encoders.index(encoder)]
        return sum(min(wait, own) for wait in waits)

    def check(self, inputs: int, encoder: Encoder | None = None) -> None:
        """Refuses a request of so many inputs where the queue is full; before it is known for which Encoder, where all queues are.

        Raises:
            Refusal: overloaded.
        """
        if (refusal := self._refusal(inputs, encoder)) is not None:
            raise refusal

    def _refusal(self, inputs: int, encoder: Encoder | None = None) -> Refusal | None:
        wait = self.waits_s(inputs, encoder)
        if wait <= self._most_s:
            return None
        return Refusal(
            "overloaded",
            f"{wait:.1f} s of work is queued, more than the {self._most_s:g} s of --max-queue-ms; try again later",
            code="overloaded",
            retry_after_s=max(1, math.ceil(wait - self._most_s)),
        )

    @property
    def full(self) -> Refusal | None:
        """What a request is told for whichever Encoder it is, where the queues of all are full; None where they are not."""
        now = time.monotonic()
        if now - self._looked >= LOOK_SECONDS:
            self._looked = now
            self._full = self._refusal(1)
        return self._full

    async def in_turn(self, tokenize: Callable[[], Value]) -> Value:
        """The result of `tokenize`, on another thread, when that of every request before it is done: meanwhile it takes hundreds of bytes a
        character. What is under way is not ended, and nothing begins before it is, also where nobody awaits it any more.

        Raises:
            Refusal: too many wait for their turn.
        """
        if self._wait_for_tokenizer >= WAITING_FOR_TOKENIZER:
            raise Refusal(
                "overloaded",
                f"{self._wait_for_tokenizer} requests are waiting for a tokenizer; try again later",
                code="overloaded",
                retry_after_s=1,
            )
        self._wait_for_tokenizer += 1
        try:
            await self._tokenizing.acquire()
        finally:
            self._wait_for_tokenizer -= 1
        under_way = asyncio.get_running_loop().run_in_executor(None, tokenize)
        under_way.add_done_callback(self._next)
        return await asyncio.shield(under_way)

    def _next(self, under_way: asyncio.Future[Any]) -> None:
        self._tokenizing.release()
        if not under_way.cancelled():
            under_way.exception()  # whoever awaits it gets it; where nobody does, it is no news


class BodyBudget:
    """The bytes of all bodies that are being read, or whose texts wait."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def take(self, count: int, *, size: int) -> None:
        """Counts bytes that have arrived, of a body that has `size` with them. The last quarter is for small bodies.

        Raises:
            Refusal: there are too many.
        """
        most = self._most if size <= SMALL_BODY_BYTES else self._most - self._most // 4
        if self._held + count > most:
            raise Refusal(
                "overloaded",
                "the bodies of all current requests exceed the memory for them; try again later",
                code="overloaded",
                retry_after_s=1,
            )
        self._held += count

    def give(self, count: int) -> None:
        """The same bytes, of which nothing is left."""
        self._held -= count
