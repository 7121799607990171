"""From a protocol to an Encoder: what goes wrong is that request's alone, and is said in its protocol's words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from each_text import with_token
from served import Answer, Served
from watched_engine import WatchedEngine

from cls_runtime import Encoder, EngineError
from cls_runtime.engines.base import TokenBatch
from cls_runtime.serving import work
from cls_runtime.serving.endpoint import Call
from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal

WRONG = 17  # the token "m", by which a faulty engine knows its text


def faulty(watched_engine: WatchedEngine, fault: Callable[[list[np.ndarray], np.ndarray], list[np.ndarray]]) -> None:
    """The engine does `fault` to the outputs of a batch with the text `m` in it, and is told which of its texts that is."""

    def around(run: Callable[..., list[np.ndarray]], batch: TokenBatch, outputs: Sequence[str]) -> list[np.ndarray]:
        hit = with_token(batch, WRONG)
        rows = run(batch, outputs)
        return fault(rows, hit) if hit.any() else rows

    watched_engine.around = around


def fails(_rows: list[np.ndarray], _hit: np.ndarray) -> list[np.ndarray]:
    raise EngineError("the graph failed on a secret")


def breaks(_rows: list[np.ndarray], _hit: np.ndarray) -> list[np.ndarray]:
    raise MemoryError("secret")


def no_number(rows: list[np.ndarray], hit: np.ndarray) -> list[np.ndarray]:
    rows = [row.copy() for row in rows]
    rows[0][hit] = np.nan
    return rows


def together(server: Served, bodies: Sequence[Any]) -> list[Answer]:
    started = [server.start("POST", path, body) for path, body in bodies]
    return [future.result(60) for future in started]


@pytest.mark.parametrize("fault", [fails, no_number, breaks])
def test_a_fault_of_the_engine_is_one_requests_alone(
    served_watched: Served, watched_engine: WatchedEngine, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    if fault is not breaks:  # an error that is not the Encoder's own takes its round with it
        faulty(watched_engine, fault)
        neighbours = [("/v1/embeddings", {"input": f"the cat {number}"}) for number in range(20)]
        bad, *good = together(served_watched, [("/v1/embeddings", {"input": "m"}), *neighbours])
        assert [answer.status for answer in good] == [200] * 20
    else:
        faulty(watched_engine, fault)
        bad = served_watched.post("/v1/embeddings", {"input": "m"})
    assert bad.status == 500
    assert bad.json["error"]["type"] == "server_error"
    assert b"secret" not in bad.body
    in_tei = served_watched.post("/embed", {"inputs": ["a", "m"]})
    assert (in_tei.status, in_tei.json["error_type"]) == (500, "Backend")
    assert served_watched.post("/embed", {"inputs": "a"}).status == 200


def test_the_deadline(watched: Encoder, watched_engine: WatchedEngine) -> None:
    go = threading.Event()
    watched_engine.around = lambda run, batch, outputs: run(batch, outputs) if go.wait(60) else []
    try:
        with Served.on(watched, deadline_s=0.2) as server:
            began = time.monotonic()
            answer = server.post("/v1/embeddings", {"input": "a"})
            assert 0.1 < time.monotonic() - began < 10
            assert answer.status == 503
            assert answer.json["error"]["code"] == "deadline_exceeded"
            assert answer.headers["retry-after"] == "1"
            go.set()
    finally:
        go.set()


def test_an_encoder_that_is_closed(served_watched: Served, watched: Encoder) -> None:
    watched.close()
    answer = served_watched.post("/v1/embeddings", {"input": "a"})
    assert (answer.status, answer.json["message"]) == (503, "the server is shutting down; try another replica")
    assert served_watched.post("/embed", {"inputs": "a"}).json["error_type"] == "Unhealthy"


def test_an_output_that_the_bundle_has_not(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    server = serve(make_bundle(outputs=("sentence_embedding",)))
    model = server.service.models.all[0]
    call = Call(server.service, RequestRecord("id", "POST", "/"), None)
    with pytest.raises(Refusal, match=f"{model.name} has no logits; it has sentence, cls") as error:
        work.encode(call, model, ["a"], param="inputs", output="logits").send(None)
    assert (error.value.kind, error.value.status) == ("unsupported", 400)


def test_a_prompt_that_the_graph_cannot_leave_out(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    prompts = {"query": "the cat, "}
    server = serve(make_bundle(pooling="mean", prompts=prompts, include_prompt=False))
    assert server.post("/embed", {"inputs": "a", "prompt_name": "query"}).status == 200
    given = np.array(server.post("/embed", {"inputs": "a", "prompt_name": "query", "normalize": False}).json, dtype=np.float32)
    np.testing.assert_array_equal(given, server.encoder.encode(["a"], prompt_name="query"))


def test_the_record(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"input": ["the cat", "a"]}, headers=[("x-request-id", "mine")])
    assert answer.headers["x-request-id"] == "mine"
    (line,) = [line for line in served.log.getvalue().splitlines() if "id=mine" in line]
    assert " inputs=2 tokens=13 truncated=0 " in line
    assert "the cat" not in line
    metrics = served.get("/metrics").body.decode()
    assert 'cls_requests_total{code="200",endpoint="/v1/embeddings"}' in metrics
