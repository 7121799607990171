"""Many texts as arrays, held to what a loop over the texts makes of them."""

import numpy as np
import pytest
from each_text import each_text
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.base import TokenBatch

PAD = 7
TEXTS = st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=12), min_size=1, max_size=20)


@st.composite
def texts_and_indices(draw):
    texts = draw(TEXTS)
    return texts, draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=12))


def naive(texts, indices, *, types=None, unpooled=None):
    """The batch, text by text; one without a token has a pad token."""
    chosen = [texts[index] or [PAD] for index in indices]
    type_ids = None if types is None else [types[index] or [0] for index in indices]
    return {
        "input_ids": [token for text in chosen for token in text],
        "lengths": [len(text) for text in chosen],
        "token_type_ids": None if type_ids is None else [kind for text in type_ids for kind in text],
        "unpooled": None if unpooled is None else [unpooled[index] for index in indices],
    }


def as_lists(batch: TokenBatch):
    arrays = {name: getattr(batch, name) for name in ("input_ids", "lengths", "token_type_ids", "unpooled")}
    assert {array.dtype for array in arrays.values() if array is not None} == {np.dtype(np.int32)}
    return {name: None if array is None else array.tolist() for name, array in arrays.items()}


@given(given_=texts_and_indices(), typed=st.booleans(), marked=st.booleans())
def test_a_batch_is_what_a_loop_makes_of_it(given_, typed, marked):
    texts, indices = given_
    types = [[token % 2 for token in text] for text in texts] if typed else None
    unpooled = np.arange(len(texts), dtype=np.int32) if marked else None
    batch = TokenizedTexts.of(texts, types).batch(np.array(indices), pad_id=PAD, unpooled=unpooled, token_budget=99)
    assert as_lists(batch) == naive(texts, indices, types=types, unpooled=unpooled)
    assert (batch.pad_id, batch.token_budget, batch.texts, batch.tokens) == (PAD, 99, len(indices), len(batch.input_ids))
    assert batch.longest == max(batch.lengths)
    assert batch.offsets.tolist() == [0, *np.cumsum(batch.lengths).tolist()]


@given(parts=st.lists(TEXTS, min_size=1, max_size=4), typed=st.booleans())
def test_parts_joined_are_their_texts_in_order(parts, typed):
    made = [TokenizedTexts.of(texts, [[1] * len(text) for text in texts] if typed else None) for texts in parts]
    whole = TokenizedTexts.joined(made)
    assert each_text(whole) == [text for part in made for text in each_text(part)]
    assert whole.token_ids() == [tuple(text) for texts in parts for text in texts]
    assert len(whole) == sum(map(len, parts))


@given(texts=TEXTS, count=st.integers(0, 25))
def test_the_first_of_them(texts, count):
    made = TokenizedTexts.of(texts, [[0] * len(text) for text in texts])
    assert each_text(made.first(count)) == each_text(made)[:count]


def test_no_texts():
    none = TokenizedTexts.of([])
    assert (len(none), none.token_ids(), none.offsets.tolist()) == (0, [], [0])


def test_an_index_that_there_is_not_is_an_error():
    with pytest.raises(IndexError):
        TokenizedTexts.of([[1]]).batch(np.array([1]), pad_id=PAD)
