"""What Prometheus reads: everything at 0 before the first request, and exact figures after known ones."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import Served

from cls_runtime import Encoder, __version__
from cls_runtime.encoding.report import BatchSummary
from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.metrics import CANCELLED, CODES, REJECTED, Metrics
from cls_runtime.serving.record import PHASES, RequestRecord
from cls_runtime.serving.refusal import Kind, Refusal

PATHS = {endpoint.path for endpoint in ENDPOINTS} | {"other"}
# The contract's, and the labels of each.
COUNTERS = {
    "cls_requests_total": {"endpoint", "code"},
    "cls_inputs_total": {"endpoint"},
    "cls_tokens_total": set(),
    "cls_padding_tokens_total": set(),
    "cls_truncated_inputs_total": set(),
    "cls_rejected_total": {"reason"},
    "cls_cancelled_total": {"reason"},
}
HISTOGRAMS = {"cls_request_seconds": {"endpoint"}, "cls_phase_seconds": {"phase"}, "cls_batch_texts": set(), "cls_batch_tokens": set()}
GAUGES = {
    "cls_queue_texts": set(),
    "cls_requests_in_flight": set(),
    "cls_ready": set(),
    "cls_model_info": {"model", "variant", "engine", "fingerprint", "version"},
}


def scraped(served: Served) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    answer = served.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("text/plain")
    return samples(answer.body)


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    found = [sample for family in text_string_to_metric_families(text.decode()) for sample in family.samples]
    by_series = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in found}
    assert len(by_series) == len(found)
    return by_series


def value(series: dict, name: str, **labels: str) -> float:
    return series[name, frozenset(labels.items())]


def of(series: dict, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: figure for (found, labels), figure in series.items() if found == name}


@pytest.fixture
def fresh(serve, make_bundle) -> Served:
    """A server that nobody has asked for anything."""
    return serve(make_bundle(outputs=("sentence_embedding",)), model_names=("tiny",))


@pytest.fixture
def scraped_at_once(fresh: Served):
    return scraped(fresh)


def test_every_metric_of_the_contract_is_there_before_the_first_request(scraped_at_once):
    for name, labels in (COUNTERS | GAUGES).items():
        series = of(scraped_at_once, name)
        assert series, name
        assert all({label for label, _ in held} == labels for held in series), name
    for name, labels in HISTOGRAMS.items():
        assert all({label for label, _ in held} == labels for held in of(scraped_at_once, f"{name}_count")), name
        assert all({label for label, _ in held} == labels | {"le"} for held in of(scraped_at_once, f"{name}_bucket")), name
    assert {name for name, _ in scraped_at_once if name.startswith("process_")} >= {
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
    }


def test_every_series_that_can_occur_is_at_0_before_the_first_request(scraped_at_once):
    def pairs(name: str) -> set[tuple[str, ...]]:
        return {tuple(text for _, text in sorted(held)) for held in of(scraped_at_once, name)}

    assert pairs("cls_requests_total") == {(str(code), path) for code in CODES for path in PATHS}
    assert pairs("cls_inputs_total") == pairs("cls_request_seconds_count") == {(path,) for path in PATHS}
    assert pairs("cls_rejected_total") == {(reason,) for reason in REJECTED}
    assert pairs("cls_cancelled_total") == {(reason,) for reason in CANCELLED} == {("deadline",), ("disconnect",), ("shutdown",)}
    assert pairs("cls_phase_seconds_count") == {(phase,) for phase in PHASES}
    apart = ("process_", "cls_ready", "cls_model_info", "cls_requests_in_flight")
    assert {name: figure for (name, _), figure in scraped_at_once.items() if figure and not name.startswith(apart)} == {}


def test_a_status_or_reason_that_is_no_series_of_the_start_does_not_exist():
    """Whatever a refusal may be, by any protocol's words, is counted from the start."""
    kinds = [kind for kind in Kind.__args__ if kind not in ("failed", "late")]
    assert tuple(kinds) == REJECTED
    for endpoint in ENDPOINTS:
        assert {endpoint.errors(Refusal(kind, ""))[0] for kind in Kind.__args__} <= set(CODES)


def test_the_state_of_a_server_and_of_its_model(fresh, scraped_at_once):
    assert value(scraped_at_once, "cls_ready") == 1
    assert value(scraped_at_once, "cls_requests_in_flight") == 1  # the one for the metrics
    info = fresh.encoder.info
    labels = {"variant": info.variant, "engine": info.engine, "fingerprint": fresh.encoder.manifest.fingerprint, "version": __version__}
    assert of(scraped_at_once, "cls_model_info") == {frozenset({"model": "tiny", **labels}.items()): 1}
    fresh.service.draining = True
    assert value(scraped(fresh), "cls_ready") == 0


def test_of_several_models_each_is_named_and_all_are_counted(serve, make_bundle):
    served = serve(make_bundle(outputs=("sentence_embedding",)), make_bundle(outputs=("sentence_embedding",)), model_names=("one", "two"))
    for model in ("one", "two", "two"):
        assert served.post("/v1/embeddings", {"input": "cat", "model": model}).status == 200
    series = scraped(served)
    assert {dict(labels)["model"] for labels in of(series, "cls_model_info")} == {"one", "two"}
    assert value(series, "cls_batch_texts_sum") == 3
    assert value(series, "cls_tokens_total") == 9  # [CLS] cat [SEP]


def test_known_requests_are_counted_exactly(fresh):
    long = "the cat sleeps " * 10
    assert fresh.get("/live").status == 200  # it has no phases
    assert fresh.post("/v1/embeddings", {"input": ["cat", long, "the cat", "cat", f"a {long}"]}).status == 200
    assert fresh.post("/embeddings", {"input": "dog"}).status == 200
    series = scraped(fresh)
    assert value(series, "cls_requests_total", endpoint="/v1/embeddings", code="200") == 1
    assert value(series, "cls_requests_total", endpoint="/embeddings", code="200") == 1
    assert value(series, "cls_inputs_total", endpoint="/v1/embeddings") == 5
    assert value(series, "cls_inputs_total", endpoint="/embeddings") == 1
    tokens = 3 + 16 + 4 + 16 + 3  # `cat` is computed once where it stands twice
    assert value(series, "cls_tokens_total") == tokens
    assert value(series, "cls_batch_texts_sum") == 5
    assert value(series, "cls_batch_tokens_sum") == tokens + value(series, "cls_padding_tokens_total")
    assert value(series, "cls_truncated_inputs_total") == 2
    assert value(series, "cls_request_seconds_count", endpoint="/v1/embeddings") == 1
    for phase in PHASES:
        assert value(series, "cls_phase_seconds_count", phase=phase) == 2, phase
    assert sum(of(series, "cls_rejected_total").values()) == sum(of(series, "cls_cancelled_total").values()) == 0


def test_padding_is_what_the_engine_computed_beside_the_tokens(watched, watched_engine):
    computed = []

    def around(run, batch, outputs):
        computed.append((batch.texts * batch.longest, batch.tokens))
        return run(batch, outputs)

    watched_engine.around = around
    with Served.on(watched) as served:
        assert served.post("/v1/embeddings", {"input": ["a", "the cat sleeps", "dog runs the cat", "cat"]}).status == 200
        series = scraped(served)
    assert value(series, "cls_tokens_total") == sum(tokens for _, tokens in computed)
    assert value(series, "cls_padding_tokens_total") == sum(places - tokens for places, tokens in computed) > 0
    assert value(series, "cls_batch_tokens_count") == value(series, "cls_batch_texts_count") == len(computed)


def test_each_refusal_is_counted_by_its_reason_and_takes_no_time(serve, make_bundle, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("secret\n")
    served = serve(make_bundle(outputs=("sentence_embedding",)), api_key_file=keys, max_inputs=2, max_body_bytes=1024)
    key = [("api-key", "secret")]
    asked = [
        (401, "unauthorized", served.post("/v1/embeddings", {"input": "cat"})),
        (400, "malformed", served.post("/v1/embeddings", b"{", headers=key)),
        (400, "empty", served.post("/v1/embeddings", {"input": []}, headers=key)),
        (404, "unknown_model", served.post("/v1/embeddings", {"input": "cat", "model": "no"}, headers=key)),
        (413, "too_large", served.post("/v1/embeddings", {"input": ["a", "b", "c"]}, headers=key)),
        (413, "too_large", served.post("/v1/embeddings", {"input": "a" * 3000}, headers=key)),
        (405, "wrong_method", served.get("/v1/embeddings")),
        (404, "unknown_path", served.get("/nothing")),
    ]
    assert [answer.status for _, _, answer in asked] == [status for status, _, _ in asked]
    series = scraped(served)
    reasons = [reason for _, reason, _ in asked]
    assert of(series, "cls_rejected_total") == {frozenset({("reason", reason)}): reasons.count(reason) for reason in REJECTED}
    assert value(series, "cls_requests_total", endpoint="other", code="404") == 1
    assert value(series, "cls_requests_total", endpoint="/v1/embeddings", code="413") == 2
    assert value(series, "cls_request_seconds_count", endpoint="/v1/embeddings") == 0
    assert value(series, "cls_inputs_total", endpoint="/v1/embeddings") == 0
    assert value(series, "cls_tokens_total") == 0


def test_overload_is_a_reason_and_a_probe_that_says_no_is_none(fresh, monkeypatch):
    monkeypatch.setattr(fresh.service.admission, "waits_s", lambda inputs, encoder=None: 7.5)
    assert fresh.post("/v1/embeddings", {"input": "cat"}).status == 429
    fresh.service.draining = True
    assert fresh.get("/ready").status == fresh.get("/health").status == 503
    assert fresh.get("/live").status == 200
    series = scraped(fresh)
    assert value(series, "cls_rejected_total", reason="overloaded") == 1
    assert value(series, "cls_rejected_total", reason="draining") == 0
    assert value(series, "cls_requests_total", endpoint="/ready", code="503") == 1


@pytest.fixture
def held(watched: Encoder, watched_engine):
    """A server whose engine computes nothing until `let` is set."""
    let = threading.Event()

    def around(run, batch, outputs):
        let.wait(30)
        return run(batch, outputs)

    watched_engine.around = around
    yield SimpleNamespace(encoder=watched, let=let)
    let.set()


def until(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_client_that_went_away_is_counted_once_and_as_nothing_else(held):
    with Served.on(held.encoder) as served:

        async def gone() -> asyncio.Event:
            return asyncio.Event()

        leaves = asyncio.run_coroutine_threadsafe(gone(), served.loop).result()
        asked = served.start("POST", "/v1/embeddings", {"input": "cat"}, leaves=leaves)
        until(lambda: value(scraped(served), "cls_requests_in_flight") == 2)
        served.loop.call_soon_threadsafe(leaves.set)
        asked.result(20)
        series = scraped(served)
        held.let.set()
    assert value(series, "cls_cancelled_total", reason="disconnect") == 1
    assert sum(of(series, "cls_cancelled_total").values()) == 1
    assert sum(of(series, "cls_rejected_total").values()) == 0
    assert value(series, "cls_requests_total", endpoint="/v1/embeddings", code="499") == 1
    assert value(series, "cls_inputs_total", endpoint="/v1/embeddings") == 0


def test_a_deadline_that_passed_is_counted_once_and_as_nothing_else(held):
    with Served.on(held.encoder, deadline_s=0.2) as served:
        assert served.post("/v1/embeddings", {"input": "cat"}).status == 503
        series = scraped(served)
        held.let.set()
    assert of(series, "cls_cancelled_total") == {frozenset({("reason", reason)}): reason == "deadline" for reason in CANCELLED}
    assert sum(of(series, "cls_rejected_total").values()) == 0
    assert value(series, "cls_requests_total", endpoint="/v1/embeddings", code="503") == 1


def test_what_the_server_cancels_as_it_ends_is_a_shutdown(held):
    with Served.on(held.encoder) as served:
        asked = served.start("POST", "/v1/embeddings", {"input": "cat"})
        until(lambda: value(scraped(served), "cls_requests_in_flight") == 2)
        served.loop.call_soon_threadsafe(served.service.flights.cancel_all, "shutdown")
        assert asked.result(20).status == 503
        series = scraped(served)
        held.let.set()
    assert value(series, "cls_cancelled_total", reason="shutdown") == 1
    assert value(series, "cls_rejected_total", reason="draining") == 0


def test_the_queue_is_the_texts_that_wait(held):
    with Served.on(held.encoder) as served:
        asked = []

        def ask() -> None:
            asked.append(served.start("POST", "/v1/embeddings", {"input": f"cat {len(asked)}"}))
            until(lambda: value(scraped(served), "cls_requests_in_flight") == len(asked) + 1)  # and the one for the metrics

        while held.encoder.queue.texts == 0:  # until every worker has one
            ask()
            time.sleep(0.05)
        for _ in range(3):
            ask()
        assert value(scraped(served), "cls_queue_texts") == held.encoder.queue.texts >= 3
        held.let.set()
        assert {answer.result(20).status for answer in asked} == {200}
        assert value(scraped(served), "cls_queue_texts") == 0


def test_no_batch_is_lost_where_many_threads_count(fresh):
    metrics = fresh.service.metrics
    batch = BatchSummary(texts=3, tokens=20, padding_tokens=4, seconds=0.001)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: [metrics.ran(batch) for _ in range(500)], range(8)))
    series = scraped(fresh)
    assert value(series, "cls_tokens_total") == 8 * 500 * 20
    assert value(series, "cls_padding_tokens_total") == 8 * 500 * 4
    assert value(series, "cls_batch_texts_count") == 8 * 500
    assert value(series, "cls_batch_tokens_sum") == 8 * 500 * 24


def test_what_is_no_request_is_counted_too(real_server):
    before = samples(real_server.ask("/metrics").body)
    address = urllib.parse.urlsplit(real_server.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.sendall(b"nonsense\r\n\r\n")
        assert connection.recv(2**16).startswith(b"HTTP/1.1 400 ")
    after = samples(real_server.ask("/metrics").body)
    for name, labels in (("cls_requests_total", {"endpoint": "other", "code": "400"}), ("cls_rejected_total", {"reason": "malformed"})):
        assert value(after, name, **labels) == value(before, name, **labels) + 1


def test_head_is_answered_as_get(fresh):
    answer = fresh.request("HEAD", "/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"] == fresh.get("/metrics").headers["content-type"]


@pytest.mark.timing
def test_a_request_costs_microseconds(fresh):
    """Measured: 7 us for a request with all six phases, 3 us for a batch; the bar leaves room for a busy machine."""
    metrics: Metrics = fresh.service.metrics
    record = RequestRecord("id", "POST", "/v1/embeddings", endpoint="/v1/embeddings", inputs=1, status=200)
    record.seconds = dict.fromkeys(PHASES, 1e-4)

    def took() -> float:
        began = time.perf_counter()
        for _ in range(1000):
            metrics.ended(record, 1e-3)
        return (time.perf_counter() - began) / 1000

    assert min(took() for _ in range(5)) < 50e-6
