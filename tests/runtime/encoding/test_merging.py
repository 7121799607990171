"""`aencode`: requests at the same time, alone and together, cancelled, refused, and from threads at once."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundle_builder import HIDDEN

from cls_runtime import (
    ClosedError,
    Encoder,
    EngineError,
    OverloadedError,
    TextError,
    TextTooLongError,
    Truncation,
    TruncationWarning,
    UsageError,
)
from cls_runtime.encoding.merging import SHARE_TEXTS

ATOL = 1e-5  # the contract's bound on a text's vector alone against in any batch
LONG = "the cat " * 30


def texts_of(request: int, count: int) -> list[str]:
    return [f"{request} the cat {number}" for number in range(count)]


@pytest.fixture
def batches(encoder, monkeypatch):
    """The sizes of the batches that the engine ran, while `hold` is set."""
    engine = encoder._runner._engine
    run, sizes = engine.run, []

    def recorded(batch, outputs):
        sizes.append(len(batch.input_ids))
        return run(batch, outputs)

    monkeypatch.setattr(engine, "run", recorded)
    return sizes


class Gate:
    """An engine that computes nothing until it is opened."""

    def __init__(self, encoder, monkeypatch):
        self.opened, self.entered = threading.Event(), threading.Event()
        run = encoder._runner._engine.run

        def gated(batch, outputs):
            self.entered.set()
            assert self.opened.wait(20)
            return run(batch, outputs)

        monkeypatch.setattr(encoder._runner._engine, "run", gated)


@pytest.fixture
def gate(encoder, monkeypatch):
    gate = Gate(encoder, monkeypatch)
    yield gate
    gate.opened.set()


def test_many_requests_at_once_get_the_vectors_they_get_alone(encoder):
    requests = [texts_of(number, 1 + number % 7) for number in range(100)]

    async def all_at_once():
        return await asyncio.gather(*(encoder.aencode(texts, normalize=True) for texts in requests))

    for texts, rows in zip(requests, asyncio.run(all_at_once()), strict=True):
        assert (rows.shape, rows.dtype) == ((len(texts), HIDDEN), np.float32)
        np.testing.assert_allclose(rows, encoder.encode(texts, normalize=True), rtol=0, atol=ATOL)


def test_requests_at_once_are_computed_together(encoder, batches):
    async def all_at_once():
        await asyncio.gather(*(encoder.aencode([letter]) for letter in "abcdefghijklmnop"))

    asyncio.run(all_at_once())
    assert sum(batches) == 16
    assert len(batches) <= 8


def test_threads_and_tasks_at_once_give_the_same_vectors(encoder):
    texts = texts_of(0, 50)
    alone = encoder.encode(texts)

    def in_a_loop_of_its_own(_):
        async def some():
            return await asyncio.gather(*(encoder.aencode(texts) for _ in range(3)))

        return [*asyncio.run(some()), encoder.encode(texts)]

    with ThreadPoolExecutor(32) as pool:
        for found in pool.map(in_a_loop_of_its_own, range(32)):
            for rows in found:
                np.testing.assert_allclose(rows, alone, rtol=0, atol=ATOL)


@pytest.mark.parametrize("output", ["cls", "pooler", "logits"])
def test_requests_for_other_outputs_do_not_mix(encoder, output):
    async def mixed():
        return await asyncio.gather(*(encoder.aencode(["the cat"], output=name) for name in ("cls", output, "logits", output)))

    rows = asyncio.run(mixed())
    np.testing.assert_allclose(rows[1], encoder.encode(["the cat"], output=output), rtol=0, atol=ATOL)
    np.testing.assert_allclose(rows[3], rows[1], rtol=0, atol=ATOL)


def test_no_texts_and_repeated_texts(encoder):
    assert asyncio.run(encoder.aencode([])).shape == (0, HIDDEN)
    rows = asyncio.run(encoder.aencode(["a", "b", "a"]))
    np.testing.assert_array_equal(rows[0], rows[2])


def test_a_short_request_does_not_wait_for_a_long_one_before_it(encoder):
    order = []

    async def run():
        async def request(name, texts):
            await encoder.aencode(texts)
            order.append(name)

        long = asyncio.create_task(request("long", texts_of(0, 100 * SHARE_TEXTS)))
        await asyncio.sleep(0)
        await asyncio.gather(long, request("short", ["a", "b"]))

    asyncio.run(run())
    assert order == ["short", "long"]


def test_a_cancelled_request_harms_no_neighbour_and_frees_its_place(encoder, gate):
    async def run():
        first = asyncio.create_task(encoder.aencode(["a"]))
        await asyncio.to_thread(gate.entered.wait, 10)
        doomed = [asyncio.create_task(encoder.aencode(texts_of(number, 200))) for number in range(3)]
        neighbour = asyncio.create_task(encoder.aencode(["the cat"]))
        await asyncio.sleep(0.05)
        for task in (first, *doomed):
            task.cancel()
        gate.opened.set()
        found = await asyncio.gather(first, *doomed, return_exceptions=True)
        assert all(isinstance(item, asyncio.CancelledError) for item in found)
        return await neighbour

    np.testing.assert_allclose(asyncio.run(run()), encoder.encode(["the cat"]), rtol=0, atol=ATOL)
    deadline = time.monotonic() + 10
    while encoder._merger._waiting_texts and time.monotonic() < deadline:
        asyncio.run(encoder.aencode(["a"]))
    assert encoder._merger._waiting_texts == 0


def test_too_many_texts_are_refused_and_not_queued(bundle, monkeypatch):
    with Encoder.load(bundle, threads=1, max_waiting_texts=10) as encoder:
        gate = Gate(encoder, monkeypatch)

        async def run():
            held = asyncio.create_task(encoder.aencode(texts_of(0, 8)))
            await asyncio.to_thread(gate.entered.wait, 10)
            with pytest.raises(OverloadedError, match="8 texts are waiting, 3 more would exceed the 10 of max_waiting_texts"):
                await encoder.aencode(["a", "b", "c"])
            fits = asyncio.create_task(encoder.aencode(["a", "b"]))
            await asyncio.sleep(0.05)
            gate.opened.set()
            assert (await held).shape == (8, HIDDEN)
            assert (await fits).shape == (2, HIDDEN)
            assert (await encoder.aencode(texts_of(1, 10))).shape == (10, HIDDEN)
            with pytest.raises(OverloadedError, match="0 texts are waiting, 11 more"):
                await encoder.aencode(texts_of(1, 11))

        asyncio.run(run())


def test_an_error_goes_to_its_own_request(encoder):
    async def run():
        return await asyncio.gather(
            *(encoder.aencode(texts) for texts in (["a"], ["fine", "lone \ud800 surrogate"], ["b", "c"])), return_exceptions=True
        )

    first, error, last = asyncio.run(run())
    assert isinstance(error, TextError)
    assert (error.index, "text 1 has a lone surrogate" in str(error)) == (1, True)
    np.testing.assert_allclose(first, encoder.encode(["a"]), rtol=0, atol=ATOL)
    np.testing.assert_allclose(last, encoder.encode(["b", "c"]), rtol=0, atol=ATOL)


def test_an_engine_error_reaches_every_request_and_the_encoder_lives_on(encoder, monkeypatch):
    def fail(batch, outputs):
        raise EngineError("out of memory")

    async def run():
        return await asyncio.gather(*(encoder.aencode([letter]) for letter in "abc"), return_exceptions=True)

    with monkeypatch.context() as patch:
        patch.setattr(encoder._runner._engine, "run", fail)
        assert [str(error) for error in asyncio.run(run())] == ["out of memory"] * 3
    assert all(rows.shape == (1, HIDDEN) for rows in asyncio.run(run()))


def test_a_text_that_is_cut_is_reported_to_its_own_request(encoder):
    reports = {}

    async def request(name, texts):
        await encoder.aencode(texts)
        reports[name] = encoder.last_report

    async def run():
        await asyncio.gather(request("short", ["a"]), request("long", ["b", LONG, "c", LONG]))

    with pytest.warns(TruncationWarning, match=r"2 text\(s\) are longer"):
        asyncio.run(run())
    assert reports["short"].truncated == ()
    removed = 62 - 16
    assert reports["long"].truncated == (Truncation(1, removed), Truncation(3, removed))
    assert (reports["short"].texts, reports["long"].texts) == (1, 4)


def test_a_text_that_is_too_long_is_an_error_of_its_own_request(bundle):
    with Encoder.load(bundle, threads=1, on_overflow="raise") as encoder:

        async def run():
            return await asyncio.gather(encoder.aencode(["a"]), encoder.aencode(["b", LONG]), return_exceptions=True)

        rows, error = asyncio.run(run())
    assert rows.shape == (1, HIDDEN)
    assert isinstance(error, TextTooLongError)
    assert error.index == 1


def test_close_ends_what_waits(encoder, gate):
    async def run():
        running = asyncio.create_task(encoder.aencode(["a"]))
        await asyncio.to_thread(gate.entered.wait, 10)
        waiting = [asyncio.create_task(encoder.aencode(texts_of(number, 300))) for number in range(4)]
        await asyncio.sleep(0.05)
        closing = asyncio.create_task(asyncio.to_thread(encoder.close))
        await asyncio.sleep(0.05)
        gate.opened.set()
        found = await asyncio.wait_for(asyncio.gather(running, *waiting, return_exceptions=True), timeout=20)
        await closing
        assert all(isinstance(item, ClosedError) for item in found[1:])
        with pytest.raises(ClosedError):
            await encoder.aencode(["a"])

    before = {thread.name for thread in threading.enumerate()}
    asyncio.run(run())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cls-encoder") and thread.name not in before]


def test_a_single_request_waits_no_longer_than_asked(bundle):
    def seconds(max_wait_ms):
        with Encoder.load(bundle, threads=1, max_wait_ms=max_wait_ms) as encoder:
            asyncio.run(encoder.aencode(["a"]))
            start = time.perf_counter()
            asyncio.run(encoder.aencode(["b"]))
            return time.perf_counter() - start

    assert seconds(400) >= 0.4
    assert min(seconds(0) for _ in range(3)) < 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_wait_ms": -1}, "max_wait_ms is -1, expected a number from 0 to 60000"),
        ({"max_wait_ms": float("nan")}, "max_wait_ms is nan"),
        ({"max_wait_ms": True}, "max_wait_ms is True"),
        ({"max_waiting_texts": 0}, "max_waiting_texts is 0, expected a whole number of at least 1"),
    ],
)
def test_options_that_make_no_sense(bundle, options, message):
    with pytest.raises(UsageError, match=message):
        Encoder.load(bundle, **options)
