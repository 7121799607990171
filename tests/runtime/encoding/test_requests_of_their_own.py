"""What each request of `aencode` says, gets and costs for itself: its report, its errors, its deadline; and what nobody keeps of it."""

import asyncio
import gc
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from bundle_builder import HIDDEN
from each_text import with_token
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from living_objects import living
from watched_engine import HANGS, Gate, WatchedEngine

from cls_runtime import (
    Bundle,
    ClosedError,
    DeadlineError,
    Encoder,
    EncodeReport,
    EncoderOptions,
    EngineError,
    InvalidVectorError,
    QueueState,
    TextError,
    TextTooLongError,
    TruncationWarning,
    UsageError,
)
from cls_runtime.encoding.request import Request

ATOL = 1e-5  # the contract's bound on a text's vector alone against in any batch
LONG = "the cat " * 30


@pytest.fixture
def held_up(bundle):
    """An Encoder that computes one round at a time, and the gate that holds up its rounds."""
    engine = WatchedEngine(Bundle.open(bundle), threads=1)
    engine.around = gate = Gate()
    with Encoder.of(Bundle.open(bundle), engine, EncoderOptions(on_overflow="truncate")) as encoder:
        yield encoder, gate
        gate.opened.set()


def run_and_leave(coroutine):
    """Closes the event loop while tasks of it wait."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(coroutine)
    for task in asyncio.all_tasks(loop):
        task._log_destroy_pending = False
    loop.close()


async def started(*coroutines):
    """Tasks, each run until it waits."""
    tasks = [asyncio.create_task(each) for each in coroutines]
    await asyncio.sleep(0)
    return tasks


class TestReports:
    def test_neighbours_never_count(self, held_up):
        encoder, gate = held_up
        requests = [["a cat", "the dog", "a cat"], [LONG, "b"], ["dog " * 5], ["a cat"]]

        async def run():
            first = asyncio.create_task(encoder.aencode(["x"]))
            await gate.holds_a_run()
            tasks = await started(*(encoder.aencode_with_report(texts) for texts in requests))
            gate.opened.set()
            await first
            return [report for _, report in await asyncio.gather(*tasks)]

        reports = asyncio.run(run())
        for texts, report in zip(requests, reports, strict=True):
            _, alone = encoder.encode_with_report(texts)
            assert (report.texts, report.tokens, report.input_tokens) == (alone.texts, alone.tokens, alone.input_tokens)
            assert report.truncated == alone.truncated
            assert report.queue_s > 0 < report.compute_s
        assert [report.input_tokens - report.tokens for report in reports] == [4, 0, 0, 0]
        assert [report.batches for report in reports] == [1] * 4  # all in one batch
        lengths = [[4, 4], [16, 3], [7], [4]]
        assert [report.padding_tokens for report in reports] == [sum(16 - length for length in each) for each in lengths]

    def test_alone_it_is_that_of_encode(self, encoder):
        texts = ["a", "the cat", "a", "dog dog"]
        rows, report = asyncio.run(encoder.aencode_with_report(texts))
        assert encoder.last_report is report
        alone_rows, alone = encoder.encode_with_report(texts)
        assert report == alone
        assert (report.input_tokens, report.tokens) == (3 + 4 + 3 + 4, 3 + 4 + 4)
        np.testing.assert_allclose(rows, alone_rows, rtol=0, atol=ATOL)

    def test_no_texts(self, encoder):
        rows, report = asyncio.run(encoder.aencode_with_report([]))
        assert (rows.shape, report) == ((0, HIDDEN), EncodeReport())

    def test_the_seconds_are_no_part_of_what_makes_reports_equal(self):
        assert EncodeReport(texts=1, queue_s=1.0) == EncodeReport(texts=1, compute_s=2.0) != EncodeReport(texts=2)


class TestEachCallDecides:
    @pytest.mark.parametrize("usual", ["warn", "truncate", "raise"])
    @pytest.mark.parametrize("asked", ["warn", "truncate", "raise"])
    def test_what_becomes_of_a_text_that_is_too_long(self, bundle, usual, asked, recwarn):
        ways = {
            "encode": lambda encoder: encoder.encode([LONG], on_overflow=asked),
            "with report": lambda encoder: encoder.encode_with_report([LONG], on_overflow=asked),
            "query": lambda encoder: encoder.encode_query([LONG], on_overflow=asked),
            "document": lambda encoder: encoder.encode_document([LONG], on_overflow=asked),
            "stream": lambda encoder: list(encoder.stream([LONG], on_overflow=asked)),
            "tokens": lambda encoder: encoder.tokens([LONG], on_overflow=asked),
        }
        with Encoder.load(bundle, threads=1, on_overflow=usual) as encoder:
            for name, way in ways.items():
                recwarn.clear()
                if asked == "raise":
                    with pytest.raises(TextTooLongError):
                        way(encoder)
                else:
                    way(encoder)
                    assert [item.category for item in recwarn] == [TruncationWarning] * (asked == "warn"), name
                    assert all(item.filename == __file__ for item in recwarn), name

    @pytest.mark.parametrize("with_report", [False, True])
    def test_a_warning_is_of_the_line_that_awaits(self, encoder, with_report):
        async def run():
            if with_report:
                await encoder.aencode_with_report([LONG], on_overflow="warn")
            else:
                await encoder.aencode([LONG], on_overflow="warn")

        with pytest.warns(TruncationWarning) as caught:
            asyncio.run(run())
        assert [item.filename for item in caught] == [__file__]

    def test_requests_that_decide_otherwise_do_not_mix(self, held_up):
        encoder, gate = held_up

        async def run():
            first = asyncio.create_task(encoder.aencode(["x"]))
            await gate.holds_a_run()
            asked = [{}, {"on_overflow": "raise"}, {"truncation_side": "left"}, {"truncation_side": "right"}]
            tasks = await started(*(encoder.aencode([LONG + "dog"], **options) for options in asked))
            gate.opened.set()
            await first
            return await asyncio.gather(*tasks, return_exceptions=True)

        usual, refused, left, right = asyncio.run(run())
        assert gate.texts == [1, 1, 1]  # the refused one is not computed, and the first and the last are one text
        assert isinstance(refused, TextTooLongError)
        np.testing.assert_array_equal(usual, right)
        assert np.abs(usual - left).max() > 1e-3
        np.testing.assert_allclose(left, encoder.encode([LONG + "dog"], truncation_side="left"), rtol=0, atol=ATOL)

    def test_the_side_is_the_same_in_every_way_in(self, encoder):
        text = "dog " * 20 + "cat " * 20
        left = encoder.encode([text], on_overflow="truncate", truncation_side="left")
        np.testing.assert_allclose(left, encoder.encode(["cat " * 14]), rtol=0, atol=ATOL)
        np.testing.assert_array_equal(np.concatenate(list(encoder.stream([text], on_overflow="truncate", truncation_side="left"))), left)
        assert encoder.tokens([text], on_overflow="truncate", truncation_side="left")[0].tokens[1:-1] == ("cat",) * 14

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"on_overflow": "cut"}, "on_overflow is 'cut', expected one of warn, truncate, raise, or None"),
            ({"on_overflow": ["warn"]}, r"on_overflow is \['warn'\], expected"),
            ({"truncation_side": "both"}, "truncation_side is 'both', expected one of left, right, or None"),
            ({"truncation_side": True}, "truncation_side is True, expected"),
        ],
    )
    def test_what_makes_no_sense_is_refused(self, encoder, options, message):
        for call in (encoder.encode, encoder.stream, encoder.tokens, lambda *a, **o: asyncio.run(encoder.aencode(*a, **o))):
            with pytest.raises(UsageError, match=message):
                call(["a"], **options)


class TestDeadlines:
    @pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), float("inf"), True, "1"])
    def test_it_is_a_number_of_seconds(self, encoder, timeout_s):
        with pytest.raises(UsageError, match="timeout_s is .*, expected a number of seconds above 0"):
            asyncio.run(encoder.aencode(["a"], timeout_s=timeout_s))

    def test_an_engine_that_hangs_does_not_hold_up_the_error(self, held_up):
        """The request that it computes, the one that waits, and their places."""
        encoder, gate = held_up

        async def run():
            begun = time.monotonic()
            computing = asyncio.create_task(encoder.aencode(["a"], timeout_s=0.1))
            await gate.holds_a_run()
            waiting = asyncio.create_task(encoder.aencode(["b", "c"], timeout_s=0.1))
            outcomes = await asyncio.gather(computing, waiting, return_exceptions=True)
            assert [type(each) for each in outcomes] == [DeadlineError] * 2
            assert time.monotonic() - begun < HANGS / 10
            assert (encoder.queue.texts, encoder._merger._queue.held_texts) == (0, 1)
            gate.opened.set()
            assert (await encoder.aencode(["d"], timeout_s=HANGS)).shape == (1, HIDDEN)

        asyncio.run(run())
        assert gate.texts == [1, 1]  # "b" and "c" never

    def test_what_is_too_late_is_not_computed_though_the_loop_is_busy(self, held_up):
        encoder, gate = held_up

        async def run():
            first = asyncio.create_task(encoder.aencode(["a"]))
            await gate.holds_a_run()
            (late,) = await started(encoder.aencode(["b"] * 2, timeout_s=0.01))
            time.sleep(0.05)
            gate.opened.set()
            while encoder.queue != QueueState():  # and still is, when the worker sees it
                time.sleep(0.001)
            with pytest.raises(DeadlineError, match="timeout_s passed with 0 of 1 texts computed"):
                await late
            await first

        asyncio.run(run())
        assert gate.texts == [1]

    def test_the_rest_of_a_long_request_is_dropped(self, bundle, watched_engine):
        slow = watched_engine
        slow.around = lambda run, batch, outputs: (time.sleep(0.01), run(batch, outputs))[1]
        with Encoder.of(Bundle.open(bundle), slow, EncoderOptions(token_budget=64)) as encoder:

            async def run():
                with pytest.raises(DeadlineError):
                    await encoder.aencode([f"cat {number}" for number in range(5000)], timeout_s=0.1)
                assert encoder.queue.texts == 0
                assert len(await encoder.aencode(["a"])) == 1

            asyncio.run(run())


class TestErrors:
    @pytest.mark.parametrize("kind", [ValueError, KeyError, MemoryError, EngineError, StopIteration, SystemExit, KeyboardInterrupt])
    def test_only_the_guilty_request_fails_and_the_worker_lives(self, held_up, kind):
        encoder, gate = held_up
        cat = encoder.tokens(["cat"])[0].ids[1]

        def fail_for_cats(run, batch, outputs):
            gate(run, batch, outputs)
            if (batch.input_ids == cat).any():
                raise kind("no cats")
            return run(batch, outputs)

        encoder._runner._engine.around = fail_for_cats

        async def run():
            first = asyncio.create_task(encoder.aencode(["x"]))
            await gate.holds_a_run()
            tasks = await started(*(encoder.aencode([text, "b"]) for text in ("a", "cat", "dog")))
            gate.opened.set()
            await first
            return await asyncio.gather(*tasks, return_exceptions=True)

        a, error, dog = asyncio.run(run())
        assert type(error) is (kind if issubclass(kind, Exception) and kind is not StopIteration else EngineError)
        assert "no cats" in str(error)
        assert a.shape == dog.shape == (2, HIDDEN)
        assert len(asyncio.run(encoder.aencode(["a"]))) == 1

    def test_a_bad_text_costs_its_neighbours_no_run(self, held_up):
        encoder, gate = held_up

        async def run():
            first = asyncio.create_task(encoder.aencode(["x"]))
            await gate.holds_a_run()
            bad = [["a"], ["b", "\ud800"], ["c"], ["\udfff"], ["d"]]
            tasks = await started(*(encoder.aencode(texts) for texts in bad))
            gate.opened.set()
            await first
            return await asyncio.gather(*tasks, return_exceptions=True)

        outcomes = asyncio.run(run())
        assert [type(each) for each in outcomes[1::2]] == [TextError] * 2
        assert [each.index for each in outcomes[1::2]] == [1, 0]
        assert gate.texts == [1, 3]

    def test_a_nan_row_fails_its_own_request(self, held_up):
        encoder, gate = held_up
        cat = encoder.tokens(["cat"])[0].ids[1]

        def nan_for_cats(run, batch, outputs):
            (rows,) = gate(run, batch, outputs)
            rows[with_token(batch, cat)] = np.nan
            return [rows]

        encoder._runner._engine.around = nan_for_cats

        async def run():
            first = asyncio.create_task(encoder.aencode(["x"]))
            await gate.holds_a_run()
            tasks = await started(*(encoder.aencode([text]) for text in ("a", "cat", "dog")))
            gate.opened.set()
            await first
            return await asyncio.gather(*tasks, return_exceptions=True)

        a, error, dog = asyncio.run(run())
        assert isinstance(error, InvalidVectorError)
        assert a.shape == dog.shape == (1, HIDDEN)


class TestTheQueue:
    def test_it_says_what_waits_and_for_how_long(self, held_up):
        encoder, gate = held_up
        assert encoder.queue == QueueState()

        async def run():
            (first,) = await started(encoder.aencode(["a"]))
            await gate.holds_a_run()
            alone = encoder.queue
            assert (alone.texts, alone.characters) == (0, 0)
            assert alone.seconds == alone.turn_seconds > 0  # what is in a round
            tasks = await started(encoder.aencode(["bc", ("d", "ef")]), encoder.aencode([f"{number:04}" for number in range(2000)]))
            full = encoder.queue
            assert (full.texts, full.characters) == (2002, 5 + 8000)
            assert full.seconds > 2 * full.turn_seconds > 2 * alone.seconds
            await asyncio.sleep(0.05)
            assert encoder.queue.stalled_s >= 0.05
            gate.opened.set()
            await asyncio.gather(first, *tasks)
            while encoder.queue != QueueState():  # the last round is counted out when its requests are handed out
                await asyncio.sleep(0.001)

        asyncio.run(run())

    @pytest.mark.timing
    def test_it_is_cheap_to_read(self, held_up):
        encoder, gate = held_up

        async def run():
            tasks = await started(*(encoder.aencode([str(number)]) for number in range(500)))
            begun = time.perf_counter()
            for _ in range(10_000):
                encoder.queue  # noqa: B018
            assert time.perf_counter() - begun < 0.5
            gate.opened.set()
            await asyncio.gather(*tasks)

        asyncio.run(run())

    def test_any_thread_may_read_it(self, encoder):
        done = threading.Event()

        def read():
            seen = 0
            while not done.is_set():
                state = encoder.queue
                assert min(state.texts, state.characters, state.seconds, state.turn_seconds, state.stalled_s) >= 0
                seen += 1
            return seen

        async def run():
            for _ in range(20):
                await asyncio.gather(*(encoder.aencode([f"cat {number}" for number in range(20)]) for _ in range(10)))

        with ThreadPoolExecutor(2) as pool:
            readers = [pool.submit(read) for _ in range(2)]
            asyncio.run(run())
            done.set()
            assert all(reader.result() for reader in readers)

    def test_withdrawn_texts_leave_at_once(self, held_up):
        encoder, gate = held_up

        async def run():
            first = asyncio.create_task(encoder.aencode(["a"]))
            await gate.holds_a_run()
            tasks = await started(*(encoder.aencode([f"{number} cat", "b"]) for number in range(10)))
            assert encoder.queue.texts == 20
            for task in tasks:
                task.cancel()
            await asyncio.sleep(0)
            assert encoder.queue.texts == 0
            gate.opened.set()
            await first

        asyncio.run(run())
        assert gate.texts == [1]


class TestNothingIsKept:
    def alive(self, *, but=()):
        others = {id(request) for request in but}
        return [request for request in living(Request) if id(request) not in others]

    @pytest.mark.parametrize("ending", ["done", "cancelled", "late", "failed", "closed loop"])
    def test_of_a_request(self, bundle, ending):
        others = self.alive()  # of other tests in this process
        engine = WatchedEngine(Bundle.open(bundle), threads=1)
        engine.around = gate = Gate()
        with Encoder.of(Bundle.open(bundle), engine, EncoderOptions(on_overflow="raise")) as encoder:

            async def run():
                first = asyncio.create_task(encoder.aencode(["x"]))
                await gate.holds_a_run()
                texts = [LONG] if ending == "failed" else ["a", "b"]
                loop = asyncio.get_running_loop()
                (task,) = await started(encoder.aencode(texts, timeout_s=0.02 if ending == "late" else 60))
                if ending == "closed loop":
                    return
                if ending == "cancelled":
                    task.cancel()
                if ending == "late":
                    await asyncio.wait([task])
                gate.opened.set()
                await asyncio.gather(first, task, return_exceptions=True)
                assert not [handle for handle in loop._scheduled if not handle.cancelled()]

            if ending == "closed loop":
                run_and_leave(run())
                gate.opened.set()
            else:
                asyncio.run(run())
            assert len(asyncio.run(encoder.aencode(["a"]))) == 1  # its worker lives
            deadline = time.monotonic() + 60
            while self.alive(but=others) and time.monotonic() < deadline:
                time.sleep(0.01)
            assert self.alive(but=others) == []
            assert encoder.queue == QueueState()

    def test_of_vectors(self, encoder):
        rows = asyncio.run(encoder.aencode(["a", "b"]))
        kept = weakref.ref(rows)
        del rows
        gc.collect()
        assert kept() is None


def test_what_a_round_completes_is_handed_out_with_one_call_into_each_loop(held_up, monkeypatch):
    encoder, gate = held_up

    async def run():
        calls = []
        loop = asyncio.get_running_loop()

        def counted(*given):
            calls.append(given)
            return type(loop).call_soon_threadsafe(loop, *given)

        monkeypatch.setattr(loop, "call_soon_threadsafe", counted)
        first = asyncio.create_task(encoder.aencode(["x"]))
        await gate.holds_a_run()
        tasks = await started(*(encoder.aencode([str(number)]) for number in range(30)))
        calls.clear()
        gate.opened.set()
        await asyncio.gather(first, *tasks)
        return len(calls)

    assert asyncio.run(run()) == 2  # the first one's, and that of all the others


def test_a_closed_encoder_says_so_whatever_a_request_is_at(held_up):
    encoder, gate = held_up

    async def run():
        (first,) = await started(encoder.aencode(["x"]))
        await gate.holds_a_run()
        (waiting,) = await started(encoder.aencode(["a"], timeout_s=60))
        closing = asyncio.create_task(asyncio.to_thread(encoder.close))
        with pytest.raises(ClosedError):
            await waiting
        gate.opened.set()
        await asyncio.gather(first, closing)

    asyncio.run(run())


REQUEST = st.tuples(
    st.lists(st.sampled_from(["a", "the cat", "dog dog dog", LONG, LONG + "dog", ("a", "cat"), "", "9 8 7"]), min_size=0, max_size=30),
    st.sampled_from(["cls", "logits", "tokens"]),
    st.sampled_from([None, "left", "right"]),
    st.sampled_from(["truncate", "raise"]),
    st.sampled_from(["", "cat "]),
    st.sampled_from(["awaited", "awaited", "awaited", "cancelled"]),
    st.integers(0, 3),
)


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    from bundle_builder import build_bundle

    folder = build_bundle(tmp_path_factory.mktemp("mixes") / "tokens", token_rows=True)
    with Encoder.load(folder, threads=2, token_budget=64) as encoder:
        yield encoder


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.lists(REQUEST, min_size=1, max_size=12))
def test_any_mix_of_requests_gives_each_what_encode_gives_it(with_tokens, requests):
    encoder = with_tokens

    async def one(texts, output, side, action, prompt, ending, turns):
        for _ in range(turns):
            await asyncio.sleep(0)
        options = {"output": output, "truncation_side": side, "on_overflow": action, "prompt": prompt}
        task = asyncio.create_task(encoder.aencode_with_report(texts, **options))
        if ending == "cancelled":
            await asyncio.sleep(0)
            task.cancel()
        try:
            found = await task
        except (asyncio.CancelledError, TextTooLongError) as error:
            found = error
        return found

    async def all_at_once():
        return await asyncio.gather(*(one(*each) for each in requests))

    for (texts, output, side, action, prompt, _, _), found in zip(requests, asyncio.run(all_at_once()), strict=True):
        if isinstance(found, asyncio.CancelledError):
            continue
        try:
            rows, alone = encoder.encode_with_report(texts, output=output, truncation_side=side, on_overflow=action, prompt=prompt)
        except TextTooLongError:
            assert isinstance(found, TextTooLongError)
            continue
        assert not isinstance(found, TextTooLongError)
        vectors, report = found
        assert len(vectors) == len(rows)
        for ours, theirs in zip(vectors, rows, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=ATOL)
        assert (report.texts, report.tokens, report.input_tokens, report.truncated) == (
            alone.texts,
            alone.tokens,
            alone.input_tokens,
            alone.truncated,
        )
        assert (report.batches > 0) == bool(texts)
    deadline = time.monotonic() + 60
    while encoder.queue != QueueState() and time.monotonic() < deadline:
        time.sleep(0.001)
    assert encoder.queue == QueueState()
    merger = encoder._merger
    assert (merger._queue.held_texts, merger._queue.held_characters, merger._queue.turn_tokens, merger._running) == (0, 0, 0, 0)


class TestObserving:
    def test_it_is_called_after_each_run(self, encoder):
        seen = []
        encoder.observe(lambda summary: seen.append((summary, threading.current_thread())))
        encoder.encode(["a", "the cat", "dog " * 30] * 20, on_overflow="truncate")
        report = encoder.last_report
        asyncio.run(encoder.aencode(["a cat"]))
        *of_encode, (last, thread) = seen
        assert sum(each.texts for each, _ in of_encode) == 3
        assert sum(each.tokens for each, _ in of_encode) == report.tokens
        assert sum(each.padding_tokens for each, _ in of_encode) == report.padding_tokens
        assert len(of_encode) == report.batches
        assert (last.texts, last.tokens, last.padding_tokens, last.seconds > 0) == (1, 4, 0, True)
        assert thread is not threading.current_thread()
        encoder.observe(None)
        encoder.encode(["a"])
        assert len(seen) == len(of_encode) + 1


class TestSharedThreads:
    def both(self, bundle, **options):
        """Two Encoders of one budget of two threads, and the most runs that were ever under way at once."""
        most, lock = [0, 0], threading.Lock()

        def counted(run, batch, outputs):
            with lock:
                most[0] += 1
                most[1] = max(most)
            try:
                time.sleep(0.002)
                return run(batch, outputs)
            finally:
                with lock:
                    most[0] -= 1

        engines = [WatchedEngine(Bundle.open(bundle), threads=2) for _ in range(2)]
        for engine in engines:
            engine.around = counted
        first = Encoder.of(Bundle.open(bundle), engines[0], EncoderOptions(token_budget=16))
        second = Encoder.of(Bundle.open(bundle), engines[1], EncoderOptions(token_budget=16), **{"shares_threads_of": first, **options})
        return first, second, most

    def work(self, *encoders):
        async def run():
            await asyncio.gather(*(each.aencode([f"{number} cat" for number in range(40)]) for each in encoders for _ in range(2)))

        with ThreadPoolExecutor(4) as pool:
            blocking = [pool.submit(each.encode, [f"{number} dog" for number in range(40)]) for each in encoders for _ in range(2)]
            asyncio.run(run())
            for each in blocking:
                each.result()

    @pytest.mark.parametrize(("options", "expected"), [({}, 2), ({"shares_threads_of": None}, 4)])
    def test_both_run_no_more_batches_at_once_than_one(self, bundle, options, expected):
        first, second, most = self.both(bundle, **options)
        with first, second:
            self.work(first, second)
        assert most[1] == expected

    @pytest.mark.parametrize("closed_first", [0, 1])
    def test_either_may_be_closed_before_the_other(self, bundle, closed_first):
        pair = self.both(bundle)[:2]
        pair[closed_first].close()
        other = pair[1 - closed_first]
        self.work(other)
        with pytest.raises(ClosedError):
            pair[closed_first].encode(["a"])
        other.close()

    def test_both_may_be_closed_at_once_while_they_work(self, bundle):
        first, second, _ = self.both(bundle)
        with ThreadPoolExecutor(4) as pool:
            working = [pool.submit(each.encode, [f"{number} dog" for number in range(400)]) for each in (first, second)]
            time.sleep(0.02)
            closing = [pool.submit(each.close) for each in (first, second)]
            for each in closing:
                each.result(timeout=60)
            for each in working:
                assert each.exception(timeout=60) is None or isinstance(each.exception(), ClosedError)

    def test_of_load(self, bundle):
        with Encoder.load(bundle, threads=2) as first, Encoder.load(bundle, shares_threads_of=first) as second:
            assert second.info.threads == 2
            assert second._runner.slots is first._runner.slots
            copy = second.__reduce__()
            assert len(copy[1]) == 2  # the name and the options: a copy shares nothing

    def test_what_cannot_be_shared_is_refused(self, bundle):
        closed = Encoder.load(bundle, threads=1)
        closed.close()
        with pytest.raises(ClosedError):
            Encoder.load(bundle, shares_threads_of=closed)
        with pytest.raises(UsageError, match="shares_threads_of is a str, expected an Encoder or None"):
            Encoder.load(bundle, shares_threads_of="first")
