"""What Prometheus reads; every series is there, at 0, from the start.

A request costs a few microseconds: the series that it counts in are looked up once, when the server starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric

from cls_runtime import __version__
from cls_runtime.encoding.report import BatchSummary
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.record import PHASES, CancelReason, RequestRecord
from cls_runtime.serving.refusal import STATUS, Kind

CONTENT_TYPE = CONTENT_TYPE_LATEST
# A request that failed or came too late was taken on; the others were not, and each kind of refusal is a reason.
REJECTED: tuple[Kind, ...] = tuple(kind for kind in get_args(Kind) if kind not in ("failed", "late"))
CANCELLED: tuple[CancelReason, ...] = get_args(CancelReason)
# TEI's paths have two of their own; 499 is a client that went away before its answer.
CODES = tuple(sorted({200, 422, 424, 499, *STATUS.values()}))
# Requests that came to no endpoint.
OTHER = "other"
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHASE_SECONDS = (0.00001, 0.000025, 0.00005, 0.0001, 0.00025, 0.0005, *_SECONDS)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


@dataclass(frozen=True)
class _OfEndpoint:
    """An endpoint's series."""

    answered: dict[int, Counter]
    inputs: Counter
    seconds: Histogram


class Metrics:
    """The metrics of one server, in a registry of its own.

    Args:
        models: what it serves; each Encoder's batches are counted from here on.
        endpoints: the paths that requests are counted by.
    """

    def __init__(self, models: Sequence[ServedModel], endpoints: Iterable[str]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter(
            "cls_requests_total", "Finished requests, including refused ones.", ["endpoint", "code"], registry=registry
        )
        inputs = Counter("cls_inputs_total", "Texts and pairs of answered requests.", ["endpoint"], registry=registry)
        self._tokens = Counter("cls_tokens_total", "Computed tokens, including special tokens, without padding.", registry=registry)
        self._padding = Counter("cls_padding_tokens_total", "Padding tokens computed with them.", registry=registry)
        self._truncated = Counter("cls_truncated_inputs_total", "Texts and pairs that were cut.", registry=registry)
        rejected = Counter("cls_rejected_total", "Requests that were not accepted.", ["reason"], registry=registry)
        cancelled = Counter("cls_cancelled_total", "Accepted requests that ended without an answer.", ["reason"], registry=registry)
        seconds = Histogram(
            "cls_request_seconds",
            "Seconds from a request's headers to the end of its answer; accepted requests only.",
            ["endpoint"],
            buckets=_SECONDS,
            registry=registry,
        )
        phases = Histogram(
            "cls_phase_seconds", "Seconds per phase of requests with a body.", ["phase"], buckets=_PHASE_SECONDS, registry=registry
        )
        self._batch_texts = Histogram("cls_batch_texts", "Texts per run of the graph.", buckets=_TEXTS, registry=registry)
        self._batch_tokens = Histogram(
            "cls_batch_tokens", "Tokens per run of the graph, including padding.", buckets=_TOKENS, registry=registry
        )
        queue = Gauge("cls_queue_texts", "Waiting texts.", registry=registry)
        queue.set_function(lambda: sum(model.encoder.queue.texts for model in models))
        self.in_flight = Gauge("cls_requests_in_flight", "Requests in progress.", registry=registry)
        self.ready = Gauge("cls_ready", "1 when /ready answers 200, else 0.", registry=registry)
        info = Gauge("cls_model_info", "The models served.", ["model", "variant", "engine", "fingerprint", "version"], registry=registry)

        self._endpoints = {
            path: _OfEndpoint({code: self._requests.labels(path, code) for code in CODES}, inputs.labels(path), seconds.labels(path))
            for path in (*endpoints, OTHER)
        }
        self._rejected: dict[str, Counter] = {reason: rejected.labels(reason) for reason in REJECTED}
        self._cancelled = {reason: cancelled.labels(reason) for reason in CANCELLED}
        self._phases = {phase: phases.labels(phase) for phase in PHASES}
        for model in models:
            about = model.encoder.info
            info.labels(model.name, about.variant, about.engine, model.fingerprint, __version__).set(1)
            model.encoder.observe(self.ran)

    def ran(self, batch: BatchSummary) -> None:
        """Counts a run of the graph; called on the engine's threads."""
        self._tokens.inc(batch.tokens)
        self._padding.inc(batch.padding_tokens)
        self._batch_texts.observe(batch.texts)
        self._batch_tokens.observe(batch.tokens + batch.padding_tokens)

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Counts a request that has ended, however it did, `seconds` after its headers."""
        endpoint = self._endpoints[record.endpoint]
        answered = endpoint.answered.get(record.status)
        if answered is None:  # of the HTTP layer's own, such as CORS
            answered = self._requests.labels(record.endpoint, record.status)
        answered.inc()
        cancelled = record.cancelled or ("deadline" if record.refused == "late" else None)
        if cancelled is not None:
            self._cancelled[cancelled].inc()
        rejected = self._rejected.get(record.refused) if record.refused and cancelled is None else None
        if rejected is not None:
            rejected.inc()
        else:
            endpoint.seconds.observe(seconds)
        if "read" in record.seconds:
            for phase, took in record.seconds.items():
                self._phases[phase].observe(took)
        if record.inputs and record.refused is None and cancelled is None:
            endpoint.inputs.inc(record.inputs)
        if record.truncated:
            self._truncated.inc(len(record.truncated))

    async def text(self) -> bytes:
        """All of them, in Prometheus' text format; other requests go on between one metric and the next."""
        parts = []
        for metric in self._registry.collect():
            # When each series was made is as many series again, and says no more than process_start_time_seconds.
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            parts.append(generate_latest(_Metric(metric)))
            await asyncio.sleep(0)
        return b"".join(parts)


@dataclass(frozen=True)
class _Metric:
    """One metric, for the library to write."""

    metric: Metric

    def collect(self) -> Iterator[Metric]:
        """It."""
        yield self.metric
