"""Blocks in, vectors out: equal to the Encoder's, repeats computed once, memory bounded."""

import sys
import threading
import time

import numpy as np
import pytest
from bundle_builder import build_bundle

from cls_runtime import Encoder, InvalidVectorError, TextTooLongError
from cls_runtime.encoding.vector_options import VectorOptions
from cls_runtime.jobs import embedding, reading_ahead, repeats
from cls_runtime.jobs.embedding import embed_blocks
from cls_runtime.jobs.progress import JobProgress
from cls_runtime.jobs.reading_ahead import AHEAD, read_ahead
from cls_runtime.jobs.rows import Counts, RowBlock
from cls_runtime.jobs.vector_types import scaled


@pytest.fixture
def encoder(bundle):
    with Encoder.load(bundle, on_overflow="truncate", threads=2) as encoder:
        yield encoder


def blocks(texts, size=100):
    for start in range(0, len(texts), size):
        piece = texts[start : start + size]
        yield RowBlock(0, start, start + len(piece), np.arange(start, start + len(piece)), piece)


def embedded(encoder, texts, **options):
    done = list(embed_blocks(encoder, blocks(texts), VectorOptions(**options).of(encoder.manifest)))
    assert [item.block.start for item in done] == list(range(0, len(texts), 100))
    return np.concatenate([item.vectors for item in done]), sum((item.counts for item in done), Counts())


@pytest.mark.parametrize("count", [1, 100, 4095, 4096, 4097, 12_000])
def test_vectors_are_the_encoders(encoder, make_texts, count):
    texts = make_texts(count)
    vectors, counts = embedded(encoder, texts)
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)
    assert counts.rows == counts.read == count
    assert counts.duplicates == count - len(set(texts))


def test_every_row_that_is_cut_counts(encoder):
    long = "the dog sleeps " * 20
    _, counts = embedded(encoder, ["cat", long, "cat", long, long])
    assert (counts.truncated, counts.duplicates) == (3, 3)


def test_options_go_through(encoder, make_texts):
    texts = make_texts(300)
    for options in (
        {"output": "logits", "normalize": True},
        {"prompt": "the cat, "},
        {"dimensions": 4},
        {"dimensions": 4, "normalize": False},
        {"normalize": True, "prompt": "a"},
    ):
        vectors, _ = embedded(encoder, texts, **options)
        np.testing.assert_allclose(vectors, encoder.encode(texts, **options), atol=1e-6)


def test_a_models_own_cut_is_behind_its_normalization(tmp_path, make_texts):
    """As sentence-transformers: such vectors have not unit length, unless it is asked for."""
    folder = build_bundle(tmp_path / "cut", truncate_dim=4, normalize=True)
    texts = make_texts(50)
    with Encoder.load(folder, on_overflow="truncate") as encoder:
        whole = encoder.encode(texts, normalize=True, dimensions=8)
        vectors, _ = embedded(encoder, texts)
        np.testing.assert_allclose(vectors, whole[:, :4], atol=1e-6)
        unit, _ = embedded(encoder, texts, normalize=True)
        np.testing.assert_allclose(unit, whole[:, :4] / np.linalg.norm(whole[:, :4], axis=1, keepdims=True), atol=1e-6)


def test_a_vector_that_a_number_cannot_hold_is_named_by_its_row(tmp_path):
    folder = build_bundle(tmp_path / "large", change_weights=lambda weights: weights * 1e5)
    with Encoder.load(folder) as encoder:
        form = VectorOptions(dtype="float16").of(encoder.manifest)
        rows = RowBlock(0, 40, 42, np.array([40, 41]), [None, "cat"])
        with pytest.raises(InvalidVectorError, match=r"the vector of text 41 has .* at most, float16 ends at 65504") as caught:
            list(embed_blocks(encoder, [rows], form))
        assert caught.value.index == 41


def test_repeats_are_computed_once(encoder, monkeypatch):
    computed = []
    stream = encoder.stream
    monkeypatch.setattr(encoder, "stream", lambda texts, **options: stream((computed.append(text) or text for text in texts), **options))
    texts = ["cat", "dog", "cat"] * 5000
    vectors, counts = embedded(encoder, texts)
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)
    assert counts.duplicates == 15_000 - len(computed)
    # More than two: while many rows wait, repeats are computed like others, which bounds the rows that wait.
    assert len(computed) < 100


def test_a_million_repeats_do_not_pile_up(encoder, monkeypatch):
    monkeypatch.setattr(embedding, "MAX_WAITING_ROWS", 1000)
    waiting = []
    complete = embedding._Waiting.complete
    monkeypatch.setattr(embedding._Waiting, "complete", lambda self: waiting.append(self._rows) or complete(self))
    vectors, _ = embedded(encoder, ["cat"] * 50_000)
    assert len(vectors) == 50_000
    assert max(waiting) <= 1000 + 2 * 4096 + 200


def test_large_repeats_do_not_pile_up(encoder, monkeypatch):
    monkeypatch.setattr(embedding, "MAX_WAITING_BYTES", 100_000)
    waiting = []
    complete = embedding._Waiting.complete
    monkeypatch.setattr(embedding._Waiting, "complete", lambda self: waiting.append(self._bytes) or complete(self))
    vectors, _ = embedded(encoder, ["cat " * 250] * 12_000)
    assert len(vectors) == 12_000
    assert max(waiting) <= 100_000 + 2 * 4096 * 1000 + 2 * 100_000


def test_what_lies_beside_texts_does_not_pile_up(encoder, monkeypatch):
    """Kept columns count: an Encoder reads thousands of texts ahead, each of which may have a document beside it."""
    monkeypatch.setattr(embedding, "MAX_HELD_BYTES", 50_000)
    monkeypatch.setattr(RowBlock, "held_bytes", 10_000)
    waiting = []
    complete = embedding._Waiting.complete
    monkeypatch.setattr(embedding._Waiting, "complete", lambda self: waiting.append(self._bytes) or complete(self))
    texts = [*(f"cat {number}" for number in range(2000)), "the dog sleeps " * 20]
    done = list(embed_blocks(encoder, blocks(texts), VectorOptions().of(encoder.manifest)))
    np.testing.assert_allclose(np.concatenate([item.vectors for item in done]), encoder.encode(texts), atol=1e-6)
    assert [cut.index for item in done for cut in item.cut] == [2000]
    assert max(waiting) == 50_000


def test_the_table_is_bounded(encoder, make_texts, monkeypatch):
    monkeypatch.setattr(repeats, "TABLE_BYTES", 50 * (4 * 8 + 200))
    texts = make_texts(9000)
    assert repeats.RepeatTable(8).capacity == 50
    vectors, counts = embedded(encoder, texts)
    np.testing.assert_allclose(vectors, encoder.encode(texts), atol=1e-6)
    assert 0 < counts.duplicates < 9000 - len(set(texts))


def test_rows_without_a_text_are_nan(encoder):
    vectors, counts = embedded(encoder, [None, "cat", None])
    assert np.isnan(vectors).all(axis=1).tolist() == [True, False, True]
    assert counts.rows == 3


@pytest.mark.parametrize("held_bytes", [embedding.MAX_HELD_BYTES, 1000])
def test_a_text_that_is_too_long_is_named_by_its_row(bundle, monkeypatch, held_bytes):
    monkeypatch.setattr(embedding, "MAX_HELD_BYTES", held_bytes)
    texts = ["cat"] * 5000 + ["dog " * 100]
    with Encoder.load(bundle, on_overflow="raise") as encoder, pytest.raises(TextTooLongError, match="text 5000 has ") as caught:
        embedded(encoder, texts)
    assert caught.value.index == 5000


def test_the_same_rows_give_the_same_bytes(encoder, make_texts):
    texts = make_texts(9000)
    first, _ = embedded(encoder, texts)
    second, _ = embedded(encoder, texts)
    assert first.tobytes() == second.tobytes()


def test_quantized_vectors_are_within_half_a_step():
    vectors = np.random.default_rng(0).standard_normal((200, 16)).astype(np.float32)
    vectors[7] = 0
    numbers, scales = scaled(vectors)
    assert np.abs(numbers).max() == 127
    assert scales[7] == 0
    assert (np.abs(numbers * scales[:, None] - vectors) <= scales[:, None] / 2 * 1.0001).all()


def test_reading_ahead_keeps_order_and_errors():
    def items():
        yield from range(20)
        raise KeyError("here")

    seen = []
    with pytest.raises(KeyError, match="here"):
        seen.extend(read_ahead(items()))
    assert seen == list(range(20))


def test_reading_ahead_without_another_thread_reads_on(monkeypatch):
    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    assert list(read_ahead(iter(range(20)))) == list(range(20))


def test_closing_does_not_wait_for_an_item_that_does_not_come(monkeypatch):
    monkeypatch.setattr(reading_ahead, "CLOSING_SECONDS", 0.1)
    comes = threading.Event()

    def items():
        yield 0
        comes.wait()
        yield 1

    ahead = read_ahead(items())
    assert next(ahead) == 0
    ahead.close()
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "cls-reader"] == [True]  # it lets the process end
    comes.set()


def test_reading_ahead_reads_so_far_and_no_further():
    taken = []
    ahead = read_ahead(number for number in range(100) if not taken.append(number))
    next(ahead)
    deadline = time.monotonic() + 300
    while len(taken) < AHEAD + 1:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ahead.close()
    assert len(taken) == AHEAD + 1


class Terminal:
    def __init__(self, terminal):
        self.terminal, self.text = terminal, ""

    def isatty(self):
        return self.terminal

    def write(self, text):
        self.text += text

    def flush(self):
        pass


def test_a_line_a_minute_in_a_log_and_without_tqdm_a_changing_line_on_a_terminal(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cls_runtime.jobs.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for terminal, lines in ((False, 2), (True, 13)):
        clock[0] = 0.0
        stream = Terminal(terminal)
        with JobProgress(total=2600, stream=stream) as progress:
            for _ in range(13):
                clock[0] += 10
                progress.add(Counts(read=100, rows=100, truncated=1, duplicates=2, tokens=1000))
        shown = [line for line in stream.text.replace("\r\x1b[K", "\n" if terminal else "").split("\n") if line]
        assert len(shown) == lines
        assert shown[-1].endswith(f"{12 if lines == 2 else 13} truncated, {24 if lines == 2 else 26} duplicates")
        assert "10 rows/s, 100 tokens/s" in shown[-1]
    assert "1,300 rows of 2,600, 10 rows/s, 100 tokens/s, 2 min 10 s left" in stream.text


@pytest.mark.parametrize(("total", "fraction"), [(3000, None), (None, 0.5)], ids=["rows known", "bytes known"])
def test_a_bar_on_a_terminal(monkeypatch, total, fraction):
    pytest.importorskip("tqdm")
    monkeypatch.setattr("cls_runtime.progress_bar.REDRAW_SECONDS", 0.0)
    stream = Terminal(terminal=True)
    with JobProgress(done_before=500, total=total, stream=stream) as progress:
        progress.add(Counts(read=1000, rows=999, skipped=1, truncated=2, duplicates=3, tokens=4000), fraction=fraction)
        shown = stream.text.split("\r")[-1]
    assert shown.startswith(" 50%|")
    assert "1.50k/3.00k" in shown
    assert shown.rstrip().endswith(" tokens/s, 2 truncated, 3 duplicates, 1 skipped]")
    assert not stream.text.split("\r")[-1].strip(), "nothing stays on the terminal"


def test_the_lines_of_a_log_on_a_terminal_that_shall_have_no_bar(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cls_runtime.jobs.progress.time.monotonic", lambda: clock[0])
    stream = Terminal(terminal=True)
    with JobProgress(bar=False, stream=stream) as progress:
        for _ in range(13):
            clock[0] += 10
            progress.add(Counts(read=100, rows=100))
    assert [line[:8] for line in stream.text.splitlines()] == ["600 rows", "1,200 ro"]
    assert "\r" not in stream.text


def test_time_left_from_the_bytes_where_rows_are_unknown(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("cls_runtime.jobs.progress.time.monotonic", lambda: clock[0])
    with JobProgress(stream=Terminal(False)) as progress:
        for step in range(1, 4):
            clock[0] = 10.0 * step
            progress.add(Counts(read=100, rows=100), fraction=step / 10)
    assert progress.line().startswith("300 rows (30%), 10 rows/s, 0 tokens/s, 1 min 45 s left")
