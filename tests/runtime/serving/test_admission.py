"""Admission: what would wait too long is refused at once, before its body is read and before anything of it is queued."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from served import Served, from_base64
from watched_engine import HANGS, WatchedEngine

from cls_runtime import Encoder
from cls_runtime.encoding.report import QueueState
from cls_runtime.serving.admission import SMALL_BODY_BYTES, SMALL_INPUTS, WAITING_FOR_TOKENIZER, Admission, BodyBudget
from cls_runtime.serving.refusal import Refusal


def encoders_of(*queues: QueueState) -> Any:
    return [SimpleNamespace(queue=queue) for queue in queues]


def admission(*queues: QueueState, max_queue_ms: float = 2000) -> Admission:
    return Admission(encoders_of(*queues), max_queue_ms=max_queue_ms)


@pytest.fixture
def held(watched_engine: WatchedEngine) -> Iterator[threading.Event]:
    """The engine computes nothing until this is set."""
    go = threading.Event()

    def wait(run: Callable[..., Any], batch: Any, outputs: Sequence[str]) -> Any:
        assert go.wait(HANGS)
        return run(batch, outputs)

    watched_engine.around = wait
    yield go
    go.set()


def test_a_small_request_waits_a_turn_and_a_large_one_for_all() -> None:
    admits = admission(QueueState(seconds=10, turn_seconds=1.5), max_queue_ms=2000)
    admits.check(SMALL_INPUTS)
    with pytest.raises(Refusal) as error:
        admits.check(SMALL_INPUTS + 1)
    assert error.value.message == "10.0 s of work is queued, more than the 2 s of --max-queue-ms; try again later"
    assert (error.value.status, error.value.code, error.value.retry_after_s) == (429, "overloaded", 8)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([3.0], [3.0]),
        ([3.0, 0.0], [3.0, 0.0]),  # the idle one's round is the next
        ([3.0, 1.0], [4.0, 2.0]),
        ([2.0, 2.0], [4.0, 4.0]),
        ([0.5, 1.0, 5.0], [1.5, 2.5, 6.5]),
    ],
)
def test_bundles_take_turns_at_the_threads(seconds: list[float], expected: list[float]) -> None:
    encoders = encoders_of(*(QueueState(seconds=10 * wait, turn_seconds=wait) for wait in seconds))
    admits = Admission(encoders, max_queue_ms=2000)
    assert [admits.waits_s(1, encoder) for encoder in encoders] == expected
    assert [admits.waits_s(100, encoder) for encoder in encoders] == [10 * wait for wait in expected]
    assert admits.waits_s(1) == min(expected)
    for encoder, wait in zip(encoders, expected, strict=True):
        if wait <= 2:
            admits.check(1, encoder)
        else:
            with pytest.raises(Refusal) as error:
                admits.check(1, encoder)
            assert error.value.retry_after_s == max(1, -int(-(wait - 2) // 1))


def test_idle_takes_anything() -> None:
    admission(QueueState(), max_queue_ms=0).check(2048)


def test_a_full_queue_refuses_before_the_body_is_read_and_queues_nothing(
    watched: Encoder, held: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cls_runtime.serving.admission.LOOK_SECONDS", 0.0)
    with Served.on(watched) as server:
        server.service.admission = Admission([watched], max_queue_ms=0)
        waiting = server.start("POST", "/v1/embeddings", {"input": "the cat"})  # one: of two a round may take the first alone
        until(lambda: watched.queue.seconds > 0 and not watched.queue.texts)  # the engine has it
        for path, body in (("/v1/embeddings", b"no JSON"), ("/embed", {"inputs": "a"}), ("/v1/embeddings", {"input": ["a"] * 2048})):
            answer = server.post(path, body)
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) >= 1
            assert "try again later" in (answer.json["message"] if "message" in answer.json else answer.json["error"])
        assert server.post("/embed", {"inputs": "a"}).json["error_type"] == "Overloaded"
        assert server.post("/v1/embeddings", {"input": "a"}).json["error"]["type"] == "rate_limit_error"
        assert watched.queue.texts == 0
        assert server.get("/live").status == server.get("/ready").status == server.get("/v1/models").status == 200
        assert 'cls_rejected_total{reason="overloaded"} 5.0' in server.get("/metrics").body.decode()
        held.set()
        assert waiting.result(60).status == 200
        until(lambda: watched.queue.seconds == 0)
        assert server.post("/v1/embeddings", {"input": "a"}).status == 200


def test_a_body_counts_until_its_texts_are_vectors(watched: Encoder, held: threading.Event) -> None:
    with Served.on(watched) as server:
        server.service.bodies._most = 2000
        body = {"input": "cat " * 300}
        waiting = server.start("POST", "/v1/embeddings", body | {"truncate": True})
        until(lambda: watched.queue.seconds > 0)
        answer = server.post("/v1/embeddings", body)
        assert (answer.status, answer.json["message"]) == (
            429,
            "the bodies of all current requests exceed the memory for them; try again later",
        )
        small = server.start("POST", "/v1/embeddings", {"input": "a"})
        held.set()
        assert waiting.result(60).status == small.result(60).status == 200
        assert server.service.bodies._held == 0
        assert server.post("/v1/embeddings", body | {"truncate": True}).status == 200


def test_one_bundle_overloaded_is_no_reason_to_refuse_another(watched: Encoder, held: threading.Event, bundle: Path) -> None:
    with Encoder.load(bundle) as other, Served.on(watched, other) as server:
        server.service.admission = Admission([watched, other], max_queue_ms=0)
        waiting = server.start("POST", "/v1/embeddings", {"input": "the cat", "model": "tiny"})
        until(lambda: watched.queue.seconds > 0)
        assert server.post("/v1/embeddings", {"input": "the cat", "model": "tiny"}).status == 429
        assert server.post("/v1/embeddings", {"input": "the cat", "model": "tiny1"}).status == 200
        held.set()
        assert waiting.result(60).status == 200


def test_a_tokenizer_serves_one_request_at_a_time() -> None:
    running: list[int] = []
    most: list[int] = []
    go = threading.Event()

    def tokenize(number: int) -> int:
        running.append(number)
        most.append(len(running))
        assert go.wait(60)
        running.remove(number)
        return number

    async def all_of_them() -> None:
        admits = admission()
        first = asyncio.create_task(admits.in_turn(lambda: tokenize(0)))
        while not running:
            await asyncio.sleep(0.001)
        first.cancel()
        others = [asyncio.create_task(admits.in_turn(lambda number=number: tokenize(number))) for number in range(1, 4)]
        with pytest.raises(asyncio.CancelledError):
            await first
        await asyncio.sleep(0.01)
        assert running == [0]  # nobody awaits it any more, and still nothing else begins
        go.set()
        assert await asyncio.gather(*others) == [1, 2, 3]
        with pytest.raises(ZeroDivisionError):
            await admits.in_turn(lambda: 1 // 0)
        assert await admits.in_turn(lambda: 5) == 5

    asyncio.run(all_of_them())
    assert set(most) == {1}


def test_no_more_than_so_many_wait_for_a_tokenizer() -> None:
    go = threading.Event()

    async def too_many() -> None:
        admits = admission()
        tasks = [asyncio.create_task(admits.in_turn(lambda: go.wait(60))) for _ in range(WAITING_FOR_TOKENIZER + 1)]
        await asyncio.sleep(0)
        with pytest.raises(Refusal, match="64 requests are waiting for a tokenizer") as error:
            await admits.in_turn(lambda: True)
        assert error.value.status == 429
        go.set()
        assert all(await asyncio.gather(*tasks))
        assert await admits.in_turn(lambda: True)

    asyncio.run(too_many())


def test_bodies_are_counted_together() -> None:
    budget = BodyBudget(10)
    budget.take(6, size=6)
    budget.take(4, size=4)
    with pytest.raises(Refusal, match="the bodies of all current requests exceed the memory for them") as error:
        budget.take(1, size=1)
    assert error.value.status == 429
    budget.give(4)
    budget.take(4, size=10)


def test_large_bodies_leave_room_for_small_ones() -> None:
    most = 8 * SMALL_BODY_BYTES
    budget = BodyBudget(most)
    budget.take(most * 3 // 4, size=most * 3 // 4)
    for size in (SMALL_BODY_BYTES + 1, most):
        with pytest.raises(Refusal):
            budget.take(1, size=size)
    budget.take(SMALL_BODY_BYTES, size=SMALL_BODY_BYTES)
    budget.take(SMALL_BODY_BYTES, size=SMALL_BODY_BYTES)
    with pytest.raises(Refusal):
        budget.take(1, size=1)


def test_many_at_once_get_their_own(served: Served) -> None:
    texts = [[f"the cat {number}", "dog " * (number % 9), "the dog sleeps " * 20] for number in range(100)]
    started = [served.start("POST", "/v1/embeddings", {"input": item, "encoding_format": "base64"}) for item in texts]
    for item, future in zip(texts, started, strict=True):
        answer = future.result(60)
        given = [from_base64(entry["embedding"]) for entry in answer.json["data"]]
        np.testing.assert_allclose(given, served.encoder.encode(item), rtol=0, atol=1e-6)
        assert answer.json["truncated"] == [2]
        assert answer.json["usage"]["prompt_tokens"] == sum(len(tokens.ids) for tokens in served.encoder.tokens(item))


@pytest.mark.timing
def test_a_refusal_costs_little(served_watched: Served) -> None:
    """Measured: 30 microseconds, all of the application; the bar is what four times the capacity leaves time for."""
    server, count = served_watched, 1000
    server.service.admission = Admission([server.encoder], max_queue_ms=-1)

    async def all_of_them() -> float:
        began = time.thread_time()
        for _ in range(count):
            answer = await server._ask("POST", "/v1/embeddings", [b'{"input": "a"}'], [], None)
            assert answer.status == 429
        return time.thread_time() - began

    seconds = asyncio.run_coroutine_threadsafe(all_of_them(), server.loop).result(60)
    assert seconds / count < 300e-6


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)
