import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime import EncodeReport, Truncation
from cls_runtime.encoding.chunks import Window, distinct, split, windows

TEXTS = st.lists(st.sampled_from(["", "a", "b", "the cat", ("a", "b"), ("b", "a")]), max_size=30)
FIRST = 7  # the place of a window's first text in its input


def window_of(texts):
    return Window(texts, range(FIRST, FIRST + len(texts)))


@given(TEXTS)
def test_each_text_occurs_once_where_it_is_first(texts):
    inputs = distinct(window_of(texts))
    assert inputs.once.texts == list(dict.fromkeys(texts))
    assert list(inputs.once.indices) == [FIRST + texts.index(text) for text in inputs.once.texts]
    assert inputs.repeats is (len(set(texts)) < len(texts))


@given(TEXTS)
def test_rows_of_all_are_each_texts_own(texts):
    inputs = distinct(window_of(texts))
    number = {text: place for place, text in enumerate(inputs.once.texts)}
    rows = np.arange(len(number), dtype=np.float32)[:, None]
    assert inputs.rows_of_all(rows)[:, 0].tolist() == [number[text] for text in texts]


@given(TEXTS, st.sets(st.sampled_from(["a", "the cat", ("a", "b")])))
def test_a_text_that_was_cut_is_reported_wherever_it_occurs(texts, cut):
    inputs = distinct(window_of(texts))
    truncated = [Truncation(index, 5) for text, index in zip(inputs.once.texts, inputs.once.indices, strict=True) if text in cut]
    computed = EncodeReport(texts=len(inputs.once.texts), tokens=90, padding_tokens=8, batches=2, truncated=tuple(truncated))
    report = inputs.report_of_all(computed, np.arange(len(inputs.once.texts)))
    assert report.truncated == tuple(Truncation(FIRST + place, 5) for place, text in enumerate(texts) if text in cut)
    assert (report.texts, report.tokens, report.padding_tokens, report.batches) == (len(texts), 90, 8, 2)


@given(texts=st.lists(st.text(max_size=4), max_size=30))
def test_windows_are_the_texts_in_order_within_both_limits(texts):
    parts = list(windows(iter(texts), most_texts=5, most=9))
    again = list(split(window_of(texts), most_texts=5, most=9))
    assert [text for part in parts for text in part.texts] == texts
    assert [index for part in parts for index in part.indices] == list(range(len(texts)))
    assert all(len(part.texts) <= 5 and sum(map(len, part.texts[:-1])) < 9 for part in parts)  # the text that reaches the limit is in it
    assert [list(part.indices) for part in again] == [[FIRST + index for index in part.indices] for part in parts]
