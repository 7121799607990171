"""`Service`: everything that requests share, and what state it is in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from cls_runtime.encoder import Encoder
from cls_runtime.serving.admission import BODIES_HELD, Admission, BodyBudget
from cls_runtime.serving.flights import Flights
from cls_runtime.serving.keys import ApiKeys
from cls_runtime.serving.metrics import Metrics
from cls_runtime.serving.models import ServedModels
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.request_log import RequestLog

STALLED_SECONDS = 30.0
# Requests that have ended are counted and logged so often.
ACCOUNT_SECONDS = 0.02


class Service:
    """The models of a server, and what is around them.

    Attributes:
        options: what the server was told.
        models: the bundles.
        admission: what bounds the queue.
        bodies: what bounds the bodies.
        flights: the requests under way.
        keys: the keys.
        metrics: the metrics.
        log: the requests' log.
        draining: whether the server is about to end.
        closing: whether requests that come still are too late.
        stalled_s: how long work may wait without any batch having ended; after that something is stuck.
    """

    def __init__(
        self,
        options: ServeOptions,
        models: ServedModels,
        *,
        endpoints: Iterable[str],
        log: RequestLog | None = None,
        stalled_s: float = STALLED_SECONDS,
    ) -> None:
        self.options = options
        self.models = models
        self.admission = Admission([model.encoder for model in models.all], max_queue_ms=options.max_queue_ms)
        self.bodies = BodyBudget(BODIES_HELD * options.max_body_bytes)
        self.flights = Flights(deadline_s=options.deadline_s)
        self.keys = ApiKeys(options.api_key_file)
        self.metrics = Metrics(models.all, endpoints)
        self.metrics.ready.set_function(lambda: float(self.unready is None))
        self.metrics.in_flight.set_function(lambda: float(len(self.flights)))
        self.log = log or RequestLog(options.log_format, quiet=options.quiet)
        self.draining = self.closing = False
        self.stalled_s = stalled_s
        self._look: asyncio.Task[None] | None = None
        self._ended: list[tuple[RequestRecord, float, float]] = []

    @property
    def unready(self) -> Refusal | None:
        """Why no more requests should come here; None where they may."""
        if self.draining:
            return Refusal("draining", "the server is shutting down; try another replica", retry_after_s=1)
        return next((stalled for model in self.models.all if (stalled := self.stalled(model.encoder))), None)

    def stalled(self, encoder: Encoder) -> Refusal | None:
        """Why an Encoder should get no more work: what it has does not end."""
        waited_s = encoder.queue.stalled_s
        if waited_s <= self.stalled_s:
            return None
        return Refusal(
            "stalled",
            f"work is queued but no batch has finished for {waited_s:.0f} s; restart the server, or try another replica",
            retry_after_s=30,
        )

    def watch(self) -> None:
        """Begins to look after the requests, on the running event loop."""
        if self._look is None:
            self._look = asyncio.get_running_loop().create_task(self.flights.look())

    def unwatch(self) -> None:
        """Ends looking after them."""
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def ended(self, record: RequestRecord) -> None:
        """Takes note of a request that has ended; it is counted and logged a little later, with others, out of the way of the next one."""
        if not self._ended:
            asyncio.get_running_loop().call_later(ACCOUNT_SECONDS, self.account)
        self._ended.append((record, time.perf_counter() - record.started_s, time.time()))

    def account(self) -> None:
        """Counts and logs the requests that have ended; on the event loop, or when that has ended."""
        ended, self._ended = self._ended, []
        for record, seconds, at in ended:
            self.metrics.ended(record, seconds)
            self.log.ended(record, seconds, at=at)

    def close(self) -> None:
        """Frees the models."""
        self.unwatch()
        self.account()
        self.models.close()
