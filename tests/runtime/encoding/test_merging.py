"""`aencode`: requests at the same time, alone and together, cancelled, refused, and from threads at once."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundle_builder import HIDDEN
from watched_engine import HANGS, Gate, WatchedEngine

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
from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.overflow import Overflow

ATOL = 1e-5  # the contract's bound on a text's vector alone against in any batch
LONG = "the cat " * 30


def texts_of(request: int, count: int) -> list[str]:
    return [f"{request} the cat {number}" for number in range(count)]


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

        long = asyncio.create_task(request("long", texts_of(0, 3200)))
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


def test_characters_are_counted_too(bundle, watched_engine, gate):
    with Encoder.of(Bundle.open(bundle), watched_engine, EncoderOptions(max_waiting_characters=100, on_overflow="truncate")) as encoder:

        async def run():
            held = asyncio.create_task(encoder.aencode(["a" * 60]))
            await gate.holds_a_run()
            with pytest.raises(OverloadedError, match="60 characters are waiting, 41 more would exceed the 100 of max_waiting_characters"):
                await encoder.aencode([("b" * 20, "c" * 21)])
            fits = asyncio.create_task(encoder.aencode(["a", "b" * 39]))
            await asyncio.sleep(0)  # the task runs until it waits
            gate.opened.set()
            await asyncio.gather(held, fits)
            await encoder.aencode(["a" * 100])  # all places are free again

        asyncio.run(run())


def test_a_share_of_long_texts_is_small(one_at_a_time):
    """What waits behind a request of long texts waits for one of them, not for all."""
    held_up, gate = one_at_a_time

    async def run():
        held = asyncio.create_task(held_up.aencode(["a"]))
        await gate.holds_a_run()
        long = asyncio.create_task(held_up.aencode([f"{number} " + "a " * 2**15 for number in range(4)]))
        await asyncio.sleep(0)
        short = asyncio.create_task(held_up.aencode(["b", "c"]))
        await asyncio.sleep(0)
        gate.opened.set()
        await short
        assert not long.done()
        await asyncio.gather(held, long)

    with pytest.warns(TruncationWarning):
        asyncio.run(run())
    assert gate.texts == [1, 1, 2, 1, 1, 1]


def test_a_long_request_that_was_alone_makes_way_after_the_batch_that_runs(one_at_a_time):
    encoder, gate = one_at_a_time
    texts = [*texts_of(0, 300), *("dog " * (number % 5) + str(number) for number in range(300))]

    async def run():
        bulk = asyncio.create_task(encoder.aencode_with_report(texts))
        await gate.holds_a_run()
        assert encoder.queue.texts == 0  # all of it is in the round
        single = asyncio.create_task(encoder.aencode(["a"]))
        await asyncio.sleep(0)
        gate.opened.set()
        await single
        assert not bulk.done()
        return await bulk

    rows, report = asyncio.run(run())
    alone, of_encode = encoder.encode_with_report(texts)
    np.testing.assert_allclose(rows, alone, rtol=0, atol=ATOL)
    assert (report.texts, report.tokens, report.input_tokens) == (600, of_encode.tokens, of_encode.tokens)
    assert 1 in gate.texts[1:4]  # with a share of the bulk before it, if at all


@pytest.mark.parametrize("withdraw", [False, True], ids=["fails", "is withdrawn"])
def test_what_is_left_of_a_request_that_ends_early_is_dropped(bundle, withdraw):
    """The engine computes the round that is under way, and the places are free at once."""
    engine = WatchedEngine(Bundle.open(bundle), threads=1)
    engine.around = gate = Gate()
    with Encoder.of(Bundle.open(bundle), engine, EncoderOptions(on_overflow="raise", max_waiting_texts=8300)) as encoder:

        async def run():
            long = asyncio.create_task(encoder.aencode([*texts_of(0, 40), "a" if withdraw else LONG, *texts_of(1, 7960)]))
            if withdraw:
                await gate.holds_a_run()
                long.cancel()
                await asyncio.sleep(0)  # the request learns of it when the loop turns, before rounds go on in their threads
            gate.opened.set()
            with pytest.raises(asyncio.CancelledError if withdraw else TextTooLongError):
                await long
            return await encoder.aencode(texts_of(2, 7000))  # which only fits without what was left

        assert asyncio.run(run()).shape == (7000, HIDDEN)
        assert sum(gate.texts) < 7000 + 1001


@pytest.fixture
def no_threads(monkeypatch):
    """A system without another thread, until it is called."""

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        yield patch.undo


async def submit(encoder):
    """Before an event loop, which needs no thread, is given anything else to do."""
    window, overflow = Window(["a"], [0]), Overflow("warn", False)
    loop = asyncio.get_running_loop()
    encoder._merger.submit(window, "sentence_embedding", width=HIDDEN, overflow=overflow, loop=loop)


@pytest.mark.parametrize("threads", [1, 2])
def test_without_another_thread_it_is_an_error_once(bundle, watched_engine, no_threads, threads):
    engine = WatchedEngine(Bundle.open(bundle), threads=threads)
    texts = texts_of(0, 300)
    with Encoder.of(Bundle.open(bundle), engine, EncoderOptions(token_budget=64, max_waiting_texts=1)) as encoder:
        for _ in range(3):
            with pytest.raises(EngineError, match=r"no thread can be started \(can't start new thread\)"):
                asyncio.run(submit(encoder))
        alone = encoder.encode(texts)  # the calling thread computes it all
        no_threads()
        assert asyncio.run(asyncio.wait_for(encoder.aencode(["a"]), HANGS)).shape == (1, HIDDEN)
        np.testing.assert_allclose(encoder.encode(texts), alone, rtol=0, atol=ATOL)


def test_with_a_thread_there_it_goes_on_when_no_other_can_be_started(watched, no_threads, monkeypatch):
    no_threads()
    assert asyncio.run(watched.aencode(["a"])).shape == (1, HIDDEN)
    monkeypatch.setattr(threading.Thread, "start", lambda thread: (_ for _ in ()).throw(RuntimeError("can't start new thread")))
    assert asyncio.run(watched.aencode(texts_of(0, 50))).shape == (50, HIDDEN)


def test_an_encoder_that_no_thread_can_be_started_for_is_refused(bundle, no_threads):
    with pytest.raises(EngineError, match=r"threads are needed and 0 can be started \(can't start new thread\)"):
        Encoder.load(bundle)


@pytest.mark.parametrize("ending", ["times out", "fails", "is never awaited"])
def test_a_script_that_ends_before_its_requests_do(bundle, ending):
    """Threads that ran the engine while the interpreter went away aborted the process in a third of the runs."""
    program = """if True:
        import asyncio, contextlib, sys
        from cls_runtime import Encoder, TextTooLongError
        encoder = Encoder.load(sys.argv[1], threads=2, on_overflow="raise")
        texts = [f"the cat {number} sleeps" for number in range(8000)]
        async def run():
            if sys.argv[2] == "times out":
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(encoder.aencode(texts), 0.01)
            elif sys.argv[2] == "fails":
                with contextlib.suppress(TextTooLongError):
                    await encoder.aencode(["the cat " * 30, *texts])
            else:
                task = asyncio.create_task(encoder.aencode(texts))
                await asyncio.sleep(0.01)
        asyncio.run(run())
    """
    for _ in range(6):
        done = subprocess.run([sys.executable, "-c", program, str(bundle), ending], capture_output=True, text=True, timeout=HANGS)
        assert (done.returncode, done.stderr) == (0, "")


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

    with pytest.warns(TruncationWarning, match=r"2 text\(s\) exceed"):
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
