"""Requests under way: ended when their client goes away, when their deadline passes, or when the server has waited long enough for them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

from cls_runtime.serving.record import CancelReason, RequestRecord

# How often they are looked at.
LOOK_SECONDS = 0.05


@dataclass(eq=False)
class Flight:
    """A request under way, and the task that answers it."""

    record: RequestRecord
    task: asyncio.Task[Any]

    def left(self) -> None:
        """Its client has gone away."""
        self.cancel("disconnect")

    def cancel(self, reason: CancelReason) -> bool:
        """Ends it, once; says whether this did."""
        if self.record.cancelled is not None or self.task.done():
            return False
        self.record.cancelled = reason
        self.task.cancel()
        return True


class Flights:
    """All of them."""

    def __init__(self, *, deadline_s: float) -> None:
        self._deadline_s = deadline_s
        self._flights: dict[RequestRecord, Flight] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def start(self, record: RequestRecord) -> Flight:
        """A request of the running task."""
        task = asyncio.current_task()
        assert task is not None
        flight = self._flights[record] = Flight(record, task)
        return flight

    def end(self, flight: Flight) -> None:
        """It is answered, or never will be."""
        self._flights.pop(flight.record, None)

    def cancel_all(self, reason: CancelReason) -> int:
        """Ends them all, and says how many there were."""
        return sum(flight.cancel(reason) for flight in list(self._flights.values()))

    async def look(self) -> None:
        """Looks at them until it is cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._look_once(time.perf_counter())  # a call of its own: none of them is held while this sleeps

    def _look_once(self, now: float) -> None:
        for flight in list(self._flights.values()):
            if now - flight.record.started_s > self._deadline_s:
                flight.cancel("deadline")
