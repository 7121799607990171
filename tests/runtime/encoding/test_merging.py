"""`aencode`: requests at the same time, alone and together, cancelled, refused, and from threads at once."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
from bundle_builder import HIDDEN
from watched_engine import WatchedEngine

from cls_runtime import (
    Bundle,
    ClosedError,
    Encoder,
    EncoderOptions,
    EngineError,
    OverloadedError,
    TextError,
    TextTooLongError,
    Truncation,
    TruncationWarning,
)
from cls_runtime.encoding import merging
from cls_runtime.encoding.merging import SHARE_TEXTS

ATOL = 1e-5  # the contract's bound on a text's vector alone against in any batch
LONG = "the cat " * 30
HANGS = 600  # seconds; a wait in another thread would outlive pytest's own limit


def texts_of(request: int, count: int) -> list[str]:
    return [f"{request} the cat {number}" for number in range(count)]


class Gate:
    """Around an engine's runs: none of them computes until it is opened. `texts` are the sizes of their batches."""

    def __init__(self):
        self.opened, self.entered = threading.Event(), threading.Event()
        self.texts = []

    def __call__(self, run, batch, outputs):
        self.texts.append(len(batch.input_ids))
        self.entered.set()
        assert self.opened.wait(HANGS)
        return run(batch, outputs)

    async def holds_a_run(self):
        """Returns once a run is held up."""
        assert await asyncio.to_thread(self.entered.wait, HANGS)


@pytest.fixture
def gate(watched_engine):
    """Holds up `watched`."""
    watched_engine.around = Gate()
    yield watched_engine.around
    watched_engine.around.opened.set()


@pytest.fixture
def one_at_a_time(bundle):
    """An encoder that computes one round at a time, for 602 texts that may wait; and the gate that holds up its rounds."""
    engine = WatchedEngine(Bundle.open(bundle), threads=1)
    engine.around = Gate()
    with Encoder.of(Bundle.open(bundle), engine, EncoderOptions(max_waiting_texts=602)) as encoder:
        yield encoder, engine.around
        engine.around.opened.set()


def test_many_requests_at_once_get_the_vectors_they_get_alone(encoder):
    requests = [texts_of(number, 1 + number % 7) for number in range(100)]

    async def all_at_once():
        return await asyncio.gather(*(encoder.aencode(texts, normalize=True) for texts in requests))

    for texts, rows in zip(requests, asyncio.run(all_at_once()), strict=True):
        assert (rows.shape, rows.dtype) == ((len(texts), HIDDEN), np.float32)
        np.testing.assert_allclose(rows, encoder.encode(texts, normalize=True), rtol=0, atol=ATOL)


def test_requests_that_wait_are_computed_together(one_at_a_time):
    encoder, gate = one_at_a_time

    async def run():
        first = asyncio.create_task(encoder.aencode(["a"]))
        await gate.holds_a_run()
        others = [asyncio.create_task(encoder.aencode([letter])) for letter in "bcdefghijklmnop"]
        await asyncio.sleep(0)  # each task runs until it waits
        gate.opened.set()
        await asyncio.gather(first, *others)

    asyncio.run(run())
    assert gate.texts == [1, 15]


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


def test_a_short_request_does_not_wait_for_a_long_one_before_it(watched, gate):
    order = []

    async def run():
        async def request(name, texts):
            await watched.aencode(texts)
            order.append(name)

        long = asyncio.create_task(request("long", texts_of(0, 10 * SHARE_TEXTS)))
        await gate.holds_a_run()
        short = asyncio.create_task(request("short", ["a", "b"]))
        await asyncio.sleep(0)  # the task runs until it waits
        gate.opened.set()
        await asyncio.gather(long, short)

    asyncio.run(run())
    assert order == ["short", "long"]


def test_a_cancelled_request_harms_no_neighbour_and_frees_its_place(one_at_a_time, encoder):
    held_up, gate = one_at_a_time

    async def run():
        first = asyncio.create_task(held_up.aencode(["a"]))
        await gate.holds_a_run()
        doomed = [asyncio.create_task(held_up.aencode(texts_of(number, 200))) for number in range(3)]
        neighbour = asyncio.create_task(held_up.aencode(["the cat"]))
        await asyncio.sleep(0)  # each task runs until it waits
        for task in (first, *doomed):
            task.cancel()
        outcomes = await asyncio.gather(first, *doomed, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 4
        gate.opened.set()
        rows = await neighbour
        assert (await held_up.aencode(texts_of(3, 602))).shape == (602, HIDDEN)  # all places are free again
        return rows

    np.testing.assert_allclose(asyncio.run(run()), encoder.encode(["the cat"]), rtol=0, atol=ATOL)


def test_too_many_texts_are_refused_and_not_queued(bundle, watched_engine, gate):
    with Encoder.of(Bundle.open(bundle), watched_engine, EncoderOptions(max_waiting_texts=10)) as encoder:

        async def run():
            held = asyncio.create_task(encoder.aencode(texts_of(0, 8)))
            await gate.holds_a_run()
            with pytest.raises(OverloadedError, match="8 texts are waiting, 3 more would exceed the 10 of max_waiting_texts"):
                await encoder.aencode(["a", "b", "c"])
            fits = asyncio.create_task(encoder.aencode(["a", "b"]))
            await asyncio.sleep(0)  # the task runs until it waits
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


def test_an_engine_error_reaches_every_request_and_the_encoder_lives_on(watched, watched_engine):
    def fail(run, batch, outputs):
        raise EngineError("out of memory")

    async def run():
        return await asyncio.gather(*(watched.aencode([letter]) for letter in "abc"), return_exceptions=True)

    watched_engine.around = fail
    assert [str(error) for error in asyncio.run(run())] == ["out of memory"] * 3
    watched_engine.around = None
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


def test_close_ends_what_waits(watched, gate):
    async def run():
        running = asyncio.create_task(watched.aencode(["a"]))
        await gate.holds_a_run()
        waiting = [asyncio.create_task(watched.aencode(texts_of(number, 300))) for number in range(4)]
        await asyncio.sleep(0)  # each task runs until it waits
        closing = asyncio.create_task(asyncio.to_thread(watched.close))
        outcomes = await asyncio.wait_for(asyncio.gather(*waiting, return_exceptions=True), HANGS)
        assert [type(outcome) for outcome in outcomes] == [ClosedError] * 4  # at once, while a round is still under way
        gate.opened.set()
        await closing
        assert (await running).shape == (1, HIDDEN)
        with pytest.raises(ClosedError):
            await watched.aencode(["a"])

    before = {thread.name for thread in threading.enumerate()}
    asyncio.run(run())
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("cls-encoder") and thread.name not in before]


@pytest.mark.parametrize(("max_wait_ms", "expected"), [(0, []), (150, [0.15, 0.05])])
def test_a_single_request_waits_for_company_as_long_as_asked(bundle, monkeypatch, max_wait_ms, expected):
    """On a clock of its own, which only waiting moves on; woken after 0.1 s, it waits for the rest."""
    now, asked_for = [0.0], []

    class Recorded(threading.Condition):
        def wait(self, timeout=None):
            if timeout is None:  # for the first request
                return super().wait()
            asked_for.append(timeout)
            now[0] += min(timeout, 0.1)
            return False

    monkeypatch.setattr(merging, "threading", SimpleNamespace(**{**vars(threading), "Condition": Recorded}))
    monkeypatch.setattr(merging, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Encoder.load(bundle, threads=1, max_wait_ms=max_wait_ms) as encoder:
        assert asyncio.run(encoder.aencode(["a"])).shape == (1, HIDDEN)
    assert asked_for == pytest.approx(expected)
