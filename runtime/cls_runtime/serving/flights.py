"""Requests under way: ended when their client goes away, when their deadline passes, or when the server has waited long enough for them."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from cls_runtime.serving.record import CancelReason, RequestRecord

# How often they are looked at; only a request that is older than this is watched for its client to go away.
LOOK_SECONDS = 0.05

Receive = Callable[[], Awaitable[Any]]


@dataclass(eq=False)
class Flight:
    """A request under way, and the task that answers it; `receive` once its body has arrived."""

    record: RequestRecord
    task: asyncio.Task[Any]
    receive: Receive | None = None
    watch: asyncio.Task[None] | None = None

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
        if flight.watch is not None:
            flight.watch.cancel()

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
            age = now - flight.record.started_s
            if age > self._deadline_s:
                flight.cancel("deadline")
            elif flight.watch is None and flight.receive is not None and age > LOOK_SECONDS / 2:
                flight.watch = asyncio.create_task(_watch(flight, flight.receive))


async def _watch(flight: Flight, receive: Receive) -> None:
    """Ends a request when its client goes away."""
    with contextlib.suppress(Exception):
        while (await receive())["type"] != "http.disconnect":
            pass
        flight.cancel("disconnect")
