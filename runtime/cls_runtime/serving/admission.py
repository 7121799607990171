"""What the server takes on: no more work than it can do within a time, and no more bytes of bodies than it can hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cls_runtime.encoder import Encoder
from cls_runtime.serving.refusal import Refusal

# A request of at most so many texts waits for one turn of each of the others, a larger one for all that they have left.
SMALL_INPUTS = 32
# All bodies that are being read, in bodies of the largest size.
BODIES_HELD = 16


class Admission:
    """Refuses what would have to wait longer than `max_queue_ms`, before anything of it is queued."""

    def __init__(self, encoders: Sequence[Encoder], *, max_queue_ms: float) -> None:
        self._encoders = encoders
        self._most_s = max_queue_ms / 1e3

    def waits_s(self, inputs: int) -> float:
        """How long a request of so many inputs would wait, by the engines' measured pace."""
        queues = [encoder.queue for encoder in self._encoders]
        return sum(queue.turn_seconds if inputs <= SMALL_INPUTS else queue.seconds for queue in queues)

    def check(self, inputs: int) -> None:
        """Refuses a request of so many inputs where the queue is full.

        Raises:
            Refusal: overloaded.
        """
        wait = self.waits_s(inputs)
        if wait > self._most_s:
            raise Refusal(
                "overloaded",
                f"{wait:.1f} s of work are waiting, more than the {self._most_s:g} s of --max-queue-ms; try again later",
                code="overloaded",
                retry_after_s=max(1, math.ceil(wait - self._most_s)),
            )


class BodyBudget:
    """The bytes of all bodies that are being read."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0

    def take(self, count: int) -> None:
        """Counts bytes that have arrived.

        Raises:
            Refusal: there are too many.
        """
        if self._held + count > self._most:
            raise Refusal(
                "overloaded", "the bodies of all requests are too large together; try again later", code="overloaded", retry_after_s=1
            )
        self._held += count

    def give(self, count: int) -> None:
        """The same bytes, which are read."""
        self._held -= count
