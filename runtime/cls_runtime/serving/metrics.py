"""What Prometheus reads; every series is there, at 0, from the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from cls_runtime import __version__
from cls_runtime.encoding.report import BatchSummary
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.record import PHASES, RequestRecord

CONTENT_TYPE = CONTENT_TYPE_LATEST
REJECTED = ("overloaded", "draining", "unauthorized", "too_large")
CANCELLED = ("disconnect", "deadline", "shutdown")
_CODES = (200, 400, 401, 404, 405, 413, 422, 424, 429, 500, 503)
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_PHASE_SECONDS = (0.0001, 0.00025, 0.0005, *_SECONDS)
_TEXTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_TOKENS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, models: Sequence[ServedModel], endpoints: Iterable[str]) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._requests = Counter("cls_requests_total", "Requests answered.", ["endpoint", "code"], registry=registry)
        self._inputs = Counter("cls_inputs_total", "Texts and pairs encoded.", ["endpoint"], registry=registry)
        self._tokens = Counter("cls_tokens_total", "Tokens computed, padding left out.", registry=registry)
        self._padding = Counter("cls_padding_tokens_total", "Padding computed beside them.", registry=registry)
        self._truncated = Counter("cls_truncated_inputs_total", "Inputs that were cut.", registry=registry)
        self._rejected = Counter("cls_rejected_total", "Requests refused before any work.", ["reason"], registry=registry)
        self._cancelled = Counter("cls_cancelled_total", "Requests ended before their answer.", ["reason"], registry=registry)
        self._request_seconds = Histogram(
            "cls_request_seconds", "From a request's headers to its answer.", ["endpoint"], buckets=_SECONDS, registry=registry
        )
        self._phase_seconds = Histogram("cls_phase_seconds", "Of a request's phases.", ["phase"], buckets=_PHASE_SECONDS, registry=registry)
        self._batch_texts = Histogram("cls_batch_texts", "Texts in a run of the graph.", buckets=_TEXTS, registry=registry)
        self._batch_tokens = Histogram(
            "cls_batch_tokens", "Tokens in a run of the graph, padding included.", buckets=_TOKENS, registry=registry
        )
        queue = Gauge("cls_queue_texts", "Texts that wait.", registry=registry)
        queue.set_function(lambda: sum(model.encoder.queue.texts for model in models))
        self.in_flight = Gauge("cls_requests_in_flight", "Requests under way.", registry=registry)
        self.ready = Gauge("cls_ready", "Whether /ready says so.", registry=registry)
        info = Gauge("cls_model_info", "The models served.", ["model", "variant", "engine", "fingerprint", "version"], registry=registry)
        for model in models:
            about = model.encoder.info
            info.labels(model.name, about.variant, about.engine, model.fingerprint, __version__).set(1)
            model.encoder.observe(self.ran)
        self._start_at_zero([*endpoints, "other"])

    def _start_at_zero(self, endpoints: Iterable[str]) -> None:
        for endpoint in endpoints:
            self._inputs.labels(endpoint)
            self._request_seconds.labels(endpoint)
            for code in _CODES:
                self._requests.labels(endpoint, str(code))
        for reason in REJECTED:
            self._rejected.labels(reason)
        for reason in CANCELLED:
            self._cancelled.labels(reason)
        for phase in PHASES:
            self._phase_seconds.labels(phase)

    def ran(self, batch: BatchSummary) -> None:
        """Counts a run of the graph; called on the engine's threads."""
        self._tokens.inc(batch.tokens)
        self._padding.inc(batch.padding_tokens)
        self._batch_texts.observe(batch.texts)
        self._batch_tokens.observe(batch.tokens + batch.padding_tokens)

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """Counts a request that has ended, however it did."""
        self._requests.labels(record.endpoint, str(record.status)).inc()
        self._request_seconds.labels(record.endpoint).observe(seconds)
        for phase, took in record.seconds.items():
            self._phase_seconds.labels(phase).observe(took)
        if record.inputs and record.refused is None and record.cancelled is None:
            self._inputs.labels(record.endpoint).inc(record.inputs)
        if record.truncated:
            self._truncated.inc(len(record.truncated))
        if record.refused in REJECTED:
            self._rejected.labels(record.refused).inc()
        if record.cancelled is not None:
            self._cancelled.labels(record.cancelled).inc()

    def text(self) -> bytes:
        """All of them, in Prometheus' text format."""
        return generate_latest(self._registry)
