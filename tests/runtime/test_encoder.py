import asyncio
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from bundle_builder import EXACT, HIDDEN, LABELS, MAX_LENGTH
from hypothesis import given, settings
from hypothesis import strategies as st

from cls_runtime import (
    Bundle,
    BundleError,
    ClosedError,
    Encoder,
    EncodeReport,
    EncoderOptions,
    EngineError,
    InvalidVectorError,
    TextError,
    TextTooLongError,
    Truncation,
    TruncationWarning,
    UsageError,
)
from cls_runtime.bundle.manifest import Variant
from cls_runtime.engines.choice import installed_engines
from cls_runtime.engines.onnxruntime import OnnxRuntimeEngine

CPU_ENGINES = [name for name in installed_engines() if name in ("onnxruntime", "openvino")]
# fp32 sums in another order: measured 5e-7 on the tiny graph, 2e-7 on all-MiniLM-L6-v2; the contract allows 1e-5.
BATCH_MAX_ABS = 1e-5
TEXTS = ["the cat sleeps", "a", "", "the dog runs, the cat sleeps", "zebra!", "the cat"]


def test_rows_are_float32_in_input_order(encoder):
    rows = encoder.encode(TEXTS)
    assert (rows.shape, rows.dtype) == ((len(TEXTS), HIDDEN), np.float32)
    for text, row in zip(TEXTS, rows, strict=True):
        np.testing.assert_allclose(row, encoder.encode([text])[0], rtol=0, atol=BATCH_MAX_ABS)
    assert len({row.tobytes() for row in rows.round(3)}) == len(TEXTS)


@pytest.mark.parametrize(("output", "width"), [("cls", HIDDEN), ("pooler", HIDDEN), ("logits", LABELS)])
def test_each_output_has_its_width(encoder, output, width):
    assert encoder.encode(TEXTS, output=output).shape == (len(TEXTS), width)
    assert encoder.encode([], output=output).shape == (0, width)


def test_pooler_and_logits_come_from_the_cls_row(encoder):
    cls, pooler, logits = (encoder.encode(TEXTS, output=output) for output in ("cls", "pooler", "logits"))
    assert np.abs(pooler).max() <= 1.0
    # Linear in the CLS row, so six rows determine the logits of any other.
    solution, *_ = np.linalg.lstsq(cls.astype(np.float64), logits.astype(np.float64), rcond=None)
    np.testing.assert_allclose(cls @ solution, logits, rtol=0, atol=1e-4)


def test_no_texts(encoder):
    rows = encoder.encode([])
    assert (rows.shape, rows.dtype) == ((0, HIDDEN), np.float32)
    assert list(encoder.stream([])) == []


def test_an_output_that_the_bundle_lacks_names_those_it_has(make_bundle):
    with Encoder.load(make_bundle(outputs=("sentence_embedding",)), threads=1) as encoder:
        assert encoder.outputs == ("sentence", "cls")
        with pytest.raises(UsageError, match=r"'pooler', this bundle has sentence, cls; export it with --pooler"):
            encoder.encode(["a"], output="pooler")
        with pytest.raises(UsageError, match="'mean', this bundle has sentence, cls"):
            encoder.stream(["a"], output="mean")


@pytest.mark.parametrize("texts", ["a text", b"bytes", {"a": 1}, {"a", "b"}, 3])
def test_what_is_no_list_of_texts_is_a_type_error(encoder, texts):
    for call in (encoder.encode, encoder.stream):
        with pytest.raises(TypeError, match=f"texts is a {type(texts).__name__}, expected a list"):
            call(texts)


@pytest.mark.parametrize("item", [None, 3, b"bytes", ("one",), ("a", "b", "c"), ("a", 1)])
def test_an_item_that_is_no_text_is_a_type_error_with_its_index(encoder, item):
    with pytest.raises(TypeError, match=r"text 1 is .*, expected a str or a pair"):
        encoder.encode(["fine", item])
    with pytest.raises(TypeError, match=r"text 1 is "):
        list(encoder.stream(iter(["fine", item])))


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (("a", 1), r"text 0 is a pair \(str, int\), expected a str or a pair \(str, str\)$"),
        (["a", None], r"text 0 is a pair \(str, NoneType\), .*; a missing value has no vector"),
        ((float("nan"), "a"), r"text 0 is a pair \(float, str\), .*; a missing value has no vector"),
    ],
)
def test_a_pair_of_something_else_names_both_types(encoder, item, words):
    with pytest.raises(TypeError, match=words):
        encoder.encode([item])


@pytest.mark.parametrize(
    "text", ["", "a", "a" * 100_000, "the " * 25_000, "😀👨‍👩‍👧", "nul\0byte", "\u202eright to left", "\ufeff", "\n\t "]
)
def test_odd_texts_have_vectors(bundle, text):
    with Encoder.load(bundle, on_overflow="truncate", threads=1) as encoder:
        assert np.isfinite(encoder.encode([text, (text, text)])).all()


@pytest.mark.parametrize("text", ["lone \ud800 surrogate", ("fine", "\udfff")])
def test_a_lone_surrogate_is_a_text_error_with_its_index(encoder, text):
    with pytest.raises(TextError, match=r"text 3 has a lone surrogate U\+D") as caught:
        encoder.encode(["a", "b", "a", text, "c"])
    assert caught.value.index == 3


def test_pairs_are_read_as_one_input(encoder):
    rows = encoder.encode([("the cat", "the dog"), ("the dog", "the cat"), "the cat"])
    assert np.abs(rows[0] - rows[1]).max() > 1e-3  # the same words, of other types
    assert np.abs(rows[0] - rows[2]).max() > 1e-3


def test_type_ids_of_a_pair_reach_the_graph(make_bundle, encoder):
    pair = [("the cat", "the dog")]
    with Encoder.load(make_bundle(type_ids=False), threads=1) as without:
        assert "token_type_ids" not in without.manifest.inputs
        assert np.abs(without.encode(pair) - encoder.encode(pair)).max() > 1e-3


def test_normalized_rows_have_length_one(encoder):
    rows = encoder.encode(TEXTS, normalize=True)
    np.testing.assert_allclose(np.linalg.norm(rows.astype(np.float64), axis=1), 1.0, rtol=0, atol=1e-6)
    plain = encoder.encode(TEXTS)
    np.testing.assert_allclose(rows, plain / np.linalg.norm(plain, axis=1, keepdims=True), rtol=0, atol=1e-6)


@settings(max_examples=25)
@given(st.lists(st.text(alphabet="abc theczd,.", max_size=12), max_size=20), st.integers(1, 80))
def test_a_vector_does_not_depend_on_its_batch(bundle, texts, token_budget):
    with Encoder.load(bundle, threads=2, token_budget=token_budget) as encoder:
        rows = encoder.encode(texts)
        for text, row in zip(texts, rows, strict=True):
            np.testing.assert_allclose(row, encoder.encode([text])[0], rtol=0, atol=BATCH_MAX_ABS)


def test_a_text_that_occurs_twice_is_computed_once(encoder):
    rows = encoder.encode(["the cat", "a", "the cat", "the cat"])
    once = encoder.encode(["the cat", "a"])
    np.testing.assert_array_equal(rows, once[[0, 1, 0, 0]])
    assert encoder.last_report.tokens == 4 + 3
    encoder.encode(["the cat", "a", "the cat", "the cat"])
    assert (encoder.last_report.texts, encoder.last_report.tokens) == (4, 4 + 3)


def test_the_report_counts_tokens_and_padding(bundle):
    with Encoder.load(bundle, threads=1, token_budget=1000) as encoder:
        assert encoder.last_report.texts == 0
        encoder.encode(["the cat sleeps", "a", ""])  # 5, 3 and 2 tokens in one batch
    report = encoder.last_report
    assert (report.texts, report.tokens, report.padding_tokens, report.batches, report.truncated) == (3, 10, 5, 1, ())


LONG = "the cat " * 20  # 40 tokens and 2 special ones


def test_truncation_is_warned_of_once_and_reported(encoder):
    with pytest.warns(TruncationWarning, match=r"2 text\(s\) exceed the model's 16 tokens") as caught:
        encoder.encode(["a", LONG, "b", LONG])
    assert len(caught) == 1
    assert caught[0].filename == __file__
    removed = 42 - MAX_LENGTH
    assert encoder.last_report.truncated == (Truncation(1, removed), Truncation(3, removed))


def test_truncation_is_reported_when_accepted(bundle):
    with warnings.catch_warnings(), Encoder.load(bundle, on_overflow="truncate", threads=1) as encoder:
        warnings.simplefilter("error")
        rows = encoder.encode([LONG, "the cat " * 7])
        np.testing.assert_array_equal(rows[0], encoder.encode(["the cat " * 7])[0])
        encoder.encode([LONG])
        assert encoder.last_report.truncated == (Truncation(0, 42 - MAX_LENGTH),)


def test_truncation_is_refused_when_asked(bundle):
    with Encoder.load(bundle, on_overflow="raise", threads=1) as encoder:
        with pytest.raises(TextTooLongError, match="text 2 has 42 tokens, the model takes 16") as caught:
            encoder.encode(["a", "b", LONG])
        assert caught.value.index == 2
        assert encoder.encode(["a " * (MAX_LENGTH - 2)]).shape == (1, HIDDEN)


def test_last_report_is_that_of_the_own_thread(encoder):
    encoder.encode(["a"])
    with ThreadPoolExecutor(1) as pool:
        pool.submit(encoder.encode, ["a", "b"]).result()
    assert encoder.last_report.texts == 1


class TestEncodeWithReport:
    def test_it_is_encode_and_last_report_in_one(self, encoder):
        texts = ["the cat", LONG, "a", LONG]
        with pytest.warns(TruncationWarning):
            expected = encoder.encode(texts, output="pooler", normalize=True)
        remembered = encoder.last_report
        with pytest.warns(TruncationWarning):
            rows, report = encoder.encode_with_report(texts, output="pooler", normalize=True)
        np.testing.assert_array_equal(rows, expected)
        assert report == remembered == encoder.last_report
        assert report.texts == 4
        assert report.truncated == (Truncation(1, 42 - MAX_LENGTH), Truncation(3, 42 - MAX_LENGTH))

    def test_callers_at_once_each_get_their_own(self, encoder):
        with ThreadPoolExecutor(8) as pool:
            reports = pool.map(lambda count: encoder.encode_with_report([f"the cat {number}" for number in range(count)])[1], range(40))
            assert [report.texts for report in reports] == list(range(40))

    @pytest.mark.parametrize("name", ["encode", "encode_with_report"])
    def test_a_warning_names_the_line_that_called(self, encoder, name):
        call = getattr(encoder, name)
        with pytest.warns(TruncationWarning) as caught:
            call([LONG])
        assert (caught[0].filename, caught[0].lineno) == (__file__, sys._getframe().f_lineno - 1)

    def test_no_texts(self, encoder):
        rows, report = encoder.encode_with_report([])
        assert rows.shape == (0, HIDDEN)
        assert report == EncodeReport()


class TestStream:
    def test_blocks_are_the_rows_of_encode(self, encoder, monkeypatch):
        monkeypatch.setattr(encoder._runner, "batching", replace(encoder._runner.batching, window_texts=7))
        texts = [f"the cat {number}" for number in range(40)] + ["the cat 1"] * 3
        blocks = list(encoder.stream(iter(texts)))
        assert [len(block) for block in blocks] == [7, 7, 7, 7, 7, 7, 1]
        assert {block.dtype for block in blocks} == {np.dtype(np.float32)}
        np.testing.assert_allclose(np.concatenate(blocks), encoder.encode(texts), rtol=0, atol=BATCH_MAX_ABS)

    def test_reads_two_windows_ahead_and_no_more(self, encoder, monkeypatch):
        monkeypatch.setattr(encoder._runner, "batching", replace(encoder._runner.batching, window_texts=5))
        read = 0

        def endless():
            nonlocal read
            while True:
                read += 1
                yield f"text {read}"

        stream = encoder.stream(endless())
        assert read == 0
        for taken in range(1, 20):
            next(stream)
            assert read <= 5 * (taken + 1)
        stream.close()
        assert encoder.encode(["a"]).shape == (1, HIDDEN)

    def test_indices_count_from_the_start_of_the_stream(self, bundle, monkeypatch):
        monkeypatch.setattr(OnnxRuntimeEngine, "batching", replace(OnnxRuntimeEngine.batching, window_texts=2))
        with Encoder.load(bundle, threads=2) as encoder:
            with pytest.raises(TextError) as caught:
                list(encoder.stream(["a", "b", "c", "\ud800"]))
            assert caught.value.index == 3
            with pytest.warns(TruncationWarning) as warned:
                reports = [encoder.last_report for _ in encoder.stream(["a", "b", "c", LONG, LONG])]
        assert len(warned) == 1
        assert [[item.index for item in report.truncated] for report in reports] == [[], [3], [4]]

    def test_an_error_of_the_source_comes_through(self, encoder):
        def failing():
            yield "a"
            raise OSError("disk gone")

        with pytest.raises(OSError, match="disk gone"):
            list(encoder.stream(failing()))


class TestInvalidVectors:
    @pytest.fixture(params=[np.nan, np.inf, 0.0])
    def damaged(self, request, make_bundle):
        def damage(weights):
            return np.full_like(weights, request.param) if request.param == 0.0 else np.where(weights > 2.0, request.param, weights)

        return make_bundle(type_ids=False, change_weights=damage)

    def test_never_leave_silently(self, damaged):
        with Encoder.load(damaged, threads=1) as encoder:
            texts = [chr(letter) for letter in range(ord("a"), ord("z"))]
            with pytest.raises(InvalidVectorError, match=r"the vector of text \d+ has (NaN|an infinity|only zeros)") as caught:
                encoder.encode(texts)
            index = caught.value.index
            with pytest.raises(InvalidVectorError):
                encoder.encode([texts[index]])
            if index:
                encoder.encode(texts[:index])

    def test_are_kept_when_asked(self, damaged):
        with Encoder.load(damaged, on_invalid="keep", threads=1) as encoder, np.errstate(invalid="ignore"):
            texts = [chr(letter) for letter in range(ord("a"), ord("z"))]
            rows = encoder.encode(texts, normalize=True)
        assert (~np.isfinite(rows).all(1) | ~rows.any(1)).any()

    def test_index_counts_repeated_texts(self, make_bundle):
        zero = make_bundle(type_ids=False, change_weights=np.zeros_like)
        with Encoder.load(zero, threads=1) as encoder, pytest.raises(InvalidVectorError) as caught:
            encoder.encode(["b", "b", "a"])
        assert caught.value.index == 0

    def test_zero_logits_are_a_result(self, make_bundle):
        with Encoder.load(make_bundle(type_ids=False, change_weights=np.zeros_like), threads=1) as encoder:
            assert not encoder.encode(["a"], output="logits").any()
            with pytest.raises(InvalidVectorError):
                encoder.encode(["a"], output="logits", normalize=True)


class TestLife:
    def test_closed_after_the_block(self, bundle):
        with Encoder.load(bundle) as encoder:
            pass
        encoder.close()
        for use in (lambda: encoder.encode(["a"]), lambda: encoder.stream(["a"]), encoder.__enter__):
            with pytest.raises(ClosedError, match="load the bundle again"):
                use()
        assert "closed" in repr(encoder)

    def test_close_under_load_ends_every_call(self, bundle):
        encoder = Encoder.load(bundle, threads=2, token_budget=16)
        outcomes: list[object] = []

        def work():
            try:
                while True:
                    encoder.encode([f"{number} the cat" for number in range(200)])
            except ClosedError as error:
                outcomes.append(error)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        encoder.close()
        for thread in threads:
            thread.join()
        assert len(outcomes) == 4

    def test_a_single_batch_is_computed_by_its_caller(self, bundle):
        """One short text in one call does not pay for a hand-over to another thread."""
        before = threading.active_count()
        with Encoder.load(bundle, threads=4) as encoder:
            encoder.encode(["a"])
            encoder.encode(["a", "the cat", "b"])
            assert threading.active_count() == before

    def test_close_frees_the_threads(self, bundle):
        before = threading.active_count()
        encoder = Encoder.load(bundle, threads=4, token_budget=8)
        encoder.encode(TEXTS)
        assert threading.active_count() > before
        encoder.close()
        assert threading.active_count() == before

    def test_pickling_sends_the_path(self, bundle):
        with Encoder.load(bundle, threads=1, on_overflow="raise") as encoder:
            data = pickle.dumps(encoder)
            assert len(data) < 1000
            with pickle.loads(data) as copy:
                np.testing.assert_array_equal(copy.encode(TEXTS), encoder.encode(TEXTS))
                assert copy.info.variant == encoder.info.variant
                with pytest.raises(TextTooLongError):
                    copy.encode([LONG])

    def test_a_copy_of_another_bundle_is_refused(self, make_bundle):
        """Which is at the path by the time it is unpickled: its vectors are not comparable."""
        folder, other = make_bundle(), make_bundle(max_length=12)
        with Encoder.load(folder, threads=1) as encoder:
            data = pickle.dumps(encoder)
        shutil.rmtree(folder)
        other.rename(folder)
        with pytest.raises(BundleError, match="has fingerprint .*another bundle is there by now"):
            pickle.loads(data)

    @pytest.mark.parametrize("engine", CPU_ENGINES)
    @pytest.mark.parametrize("closed", [True, False])
    def test_one_that_is_dropped_is_freed(self, bundle, engine, closed):
        """Its threads end and nothing keeps it, closed or not: a service may load and drop many."""
        texts = [f"the cat {number}" for number in range(200)]
        before = threading.active_count()
        dropped = []
        for _ in range(50):
            encoder = Encoder.load(bundle, engine=engine, threads=2, token_budget=64)
            encoder.encode(texts)
            asyncio.run(encoder.aencode(["a"]))
            dropped += [weakref.ref(encoder), weakref.ref(encoder._runner), weakref.ref(encoder._merger)]
            if closed:
                encoder.close()
            del encoder
        deadline = time.monotonic() + 300
        while threading.active_count() > before or any(item() is not None for item in dropped):
            assert time.monotonic() < deadline, (threading.enumerate(), [item() for item in dropped])
            time.sleep(0.01)  # its threads are told to end, not waited for

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("engine", CPU_ENGINES)
    @pytest.mark.parametrize(
        ("action", "expected"),
        [
            ("encoder.encode(['a'])", "EngineError"),
            ("encoder.stream(['a'])", "EngineError"),
            ("next(stream)", "EngineError"),
            ("asyncio.run(encoder.aencode(['a']))", "EngineError"),
            ("encoder.close()", "fine"),
            ("stream.close()", "fine"),
            ("del stream; gc.collect()", "fine"),
            ("del stream, encoder; gc.collect()", "fine"),
            ("pass", "fine"),
        ],
    )
    def test_after_a_fork(self, bundle, engine, action, expected):
        """In the child it is refused, and nothing hangs, also at its exit. The parent goes on."""
        # Not os.fork in the test process: pytest's own threads and buffers would be copied.
        program = f"""if True:
            import asyncio, gc, os, signal, sys
            from cls_runtime import Encoder, EngineError
            encoder = Encoder.load(sys.argv[1], engine={engine!r}, threads=2)
            stream = encoder.stream(f"the cat {{number}}" for number in range(9000))
            count = len(next(stream))
            asyncio.run(encoder.aencode(["a"]))
            child = os.fork()
            if child == 0:
                signal.alarm(200)
                try:
                    {action}
                    print("fine")
                except EngineError as error:
                    assert "after the fork" in str(error)
                    print("EngineError")
                sys.exit(7)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
            print(count + sum(map(len, stream)))
        """
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(bundle)], capture_output=True, text=True, timeout=600)
        assert (done.returncode, done.stdout.split(), done.stderr) == (0, [expected, "9000"], "")

    def test_32_threads_at_once_give_the_same_vectors(self, bundle):
        with Encoder.load(bundle, threads=2, token_budget=32) as encoder:
            texts = [f"the cat {number}" for number in range(60)]
            alone = encoder.encode(texts)
            with ThreadPoolExecutor(32) as pool:
                for rows in pool.map(lambda _: encoder.encode(texts), range(64)):
                    np.testing.assert_array_equal(rows, alone)

    def test_callers_stay_within_the_budget_of_threads(self, watched, watched_engine):
        running, most = 0, 0
        lock = threading.Lock()

        def counted(run, batch, outputs):
            nonlocal running, most
            with lock:
                running += 1
                most = max(most, running)
            try:
                return run(batch, outputs)
            finally:
                with lock:
                    running -= 1

        watched_engine.around = counted
        with ThreadPoolExecutor(16) as pool:
            list(pool.map(lambda number: watched.encode([f"{number} {letter}" for letter in "abcdefgh"]), range(50)))
        assert 1 <= most <= 2

    def test_an_engine_error_comes_through_and_the_encoder_lives_on(self, watched, watched_engine):
        def fail(run, batch, outputs):
            raise EngineError("out of memory")

        watched_engine.around = fail
        with pytest.raises(EngineError, match="out of memory"):
            watched.encode(TEXTS * 3 + [f"{number} the cat" for number in range(50)])
        watched_engine.around = None
        assert watched.encode(TEXTS).shape == (len(TEXTS), HIDDEN)


class TestOnAnEngineOfOnesOwn:
    def test_the_vectors_are_that_engines(self, watched, watched_engine, encoder):
        np.testing.assert_array_equal(watched.encode(TEXTS), encoder.encode(TEXTS))
        watched_engine.around = lambda run, batch, outputs: [2 * rows for rows in run(batch, outputs)]
        np.testing.assert_array_equal(watched.encode(TEXTS), 2 * encoder.encode(TEXTS))

    def test_info_is_of_the_engine_and_the_options(self, bundle, watched_engine):
        watched_engine.name, watched_engine.providers = "mine", ("my own",)
        with Encoder.of(Bundle.open(bundle), watched_engine, EncoderOptions(variant="fp16", token_budget=70)) as encoder:
            info = encoder.info
        assert (info.engine, info.variant, info.providers, info.token_budget) == ("mine", "fp16", ("my own",), 70)
        assert (info.threads, info.workers) == (2, 2)
        assert info.reasons == ("engine mine: given to Encoder.of",)

    def test_options_are_those_of_load(self, bundle, watched_engine):
        with (
            Encoder.of(Bundle.open(bundle), watched_engine, EncoderOptions(on_overflow="raise")) as encoder,
            pytest.raises(TextTooLongError),
        ):
            encoder.encode([LONG])

    def test_without_options_it_has_the_defaults_of_load(self, bundle, watched_engine):
        with Encoder.of(Bundle.open(bundle), watched_engine) as encoder, pytest.warns(TruncationWarning):
            encoder.encode([LONG])

    def test_the_engine_is_closed_with_it(self, watched, watched_engine):
        watched.encode(TEXTS)
        assert not watched_engine.closed
        watched.close()
        assert watched_engine.closed

    def test_it_cannot_be_sent_to_another_process(self, watched):
        with pytest.raises(TypeError, match="made with Encoder.of cannot be pickled"):
            pickle.dumps(watched)


ODD_ROWS = {
    "one row for all": lambda rows: rows[:1],
    "one number a row": lambda rows: rows[:, :1],
    "a row too many": lambda rows: np.concatenate([rows, rows[:1]]),
    "a row too few": lambda rows: rows[1:],
    "one number too many": lambda rows: np.concatenate([rows, rows[:, :1]], axis=1),
    "every token's": lambda rows: rows[:, None, :],
    "one vector": lambda rows: rows[0],
    "a number": lambda rows: rows[0, 0],
    "nothing": lambda rows: np.zeros((0, rows.shape[1]), np.float32),
    "float64": lambda rows: rows.astype(np.float64),
    "float16": lambda rows: rows.astype(np.float16),
    "int64": lambda rows: rows.astype(np.int64),
    "strings": lambda rows: rows.astype(np.str_),
    "objects": lambda rows: rows.astype(object),
    "a list": lambda rows: rows.tolist(),
    "None": lambda rows: None,
}


@pytest.mark.parametrize("case", ODD_ROWS)
def test_what_an_engine_gives_is_float32_of_the_batchs_shape_or_refused(watched, watched_engine, case):
    """numpy would broadcast, cast or drop it into rows that look right."""
    watched_engine.around = lambda run, batch, outputs: [ODD_ROWS[case](rows) for rows in run(batch, outputs)]
    with pytest.raises(BundleError, match=r"the graph's sentence_embedding is .*, expected float32 \[\d+, 8\]"):
        watched.encode(["the cat", "a dog", "runs"])


class TestLoad:
    def test_another_fingerprint_is_refused(self, bundle):
        with Encoder.load(bundle, threads=1) as encoder:
            fingerprint = encoder.manifest.fingerprint
        Encoder.load(bundle, threads=1, fingerprint=fingerprint).close()
        with pytest.raises(BundleError, match=f"has fingerprint {fingerprint[:12]}, expected 00000000:"):
            Encoder.load(bundle, threads=1, fingerprint="0" * 8)

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"variant": "int4"}, "variant is 'int4', expected one of auto, fp32"),
            ({"engine": "tvm"}, "engine is 'tvm', expected one of auto, onnxruntime"),
            ({"engine": ["cuda"]}, r"engine is \['cuda'\], expected one of auto, onnxruntime"),
        ],
    )
    def test_names_that_nobody_knows(self, bundle, options, message):
        with pytest.raises(UsageError, match=message):
            Encoder.load(bundle, **options)

    def test_info_says_what_and_why(self, make_bundle):
        poor = Variant(
            files=(), recipe={}, parity={"cls": EXACT.__class__(**(vars(EXACT) | {"min_cosine": 0.9}))}, batch_invariance_max_abs=0.0
        )
        with Encoder.load(make_bundle(variants={"fp32": None, "int8": poor}), engine="onnxruntime", threads=3) as encoder:
            info = encoder.info
        assert (info.engine, info.variant, info.threads, info.workers) == ("onnxruntime", "fp32", 3, 3)
        assert info.providers == ("CPUExecutionProvider",)
        assert any("int8" in reason and "min_cosine 0.9" in reason for reason in info.reasons)

    def test_threads_default_to_the_cpus_of_the_container(self, bundle, monkeypatch):
        monkeypatch.setattr("cls_runtime.encoder.available_cpus", lambda: 5)
        with Encoder.load(bundle) as encoder:
            assert encoder.info.threads == 5

    def test_hashes_are_checked_where_asked(self, own_bundle):
        path = own_bundle / "tokenizer_config.json"
        path.write_bytes(path.read_bytes().replace(b"PreTrained", b"PreTrainxx"))
        Encoder.load(own_bundle, threads=1).close()
        with pytest.raises(Exception, match="sha256") as caught:
            Encoder.load(own_bundle, threads=1, check_hashes=True)
        assert caught.value.exit_code == 1
