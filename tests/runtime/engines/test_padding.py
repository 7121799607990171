"""The padded layout, held to a loop over the texts; and the way back, without padding."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.padding import of_texts, padded, padding_tokens

LENGTHS = st.lists(st.integers(1, 9), min_size=1, max_size=8)


def batch_of(*texts: list[int], **options) -> TokenBatch:
    made = TokenizedTexts.of(texts, [[token % 2 for token in text] for text in texts])
    return made.batch(np.arange(len(texts)), **{"pad_id": 9, **options})


def test_padding_is_on_the_right_and_masked():
    laid_out = padded(batch_of([5, 7, 8], [4]))
    assert laid_out.input_ids.tolist() == [[5, 7, 8], [4, 9, 9]]
    assert laid_out.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert laid_out.token_type_ids.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert {array.dtype for array in (laid_out.input_ids, laid_out.attention_mask, laid_out.token_type_ids)} == {np.dtype(np.int64)}


def test_rows_and_columns_that_are_left():
    laid_out = padded(batch_of([5, 7, 8], [4]), rows=4, width=4)
    assert laid_out.shape == (4, 4)
    assert laid_out.input_ids.tolist() == [[5, 7, 8, 9], *[[4, 9, 9, 9]] * 3]
    assert laid_out.attention_mask.tolist() == [[1, 1, 1, 0], *[[1, 0, 0, 0]] * 3]


def test_tokens_that_are_not_pooled_are_marked_and_no_padding_is():
    laid_out = padded(batch_of([5, 7, 8], [4], unpooled=np.array([2, 3], dtype=np.int32)))
    assert laid_out.attention_mask.tolist() == [[2, 2, 1], [2, 0, 0]]


def test_no_type_ids_where_the_graph_takes_none():
    assert padded(TokenizedTexts.of([[5]]).batch(np.array([0]), pad_id=0)).token_type_ids is None


@given(lengths=LENGTHS, more=st.integers(0, 3), wider=st.integers(0, 3))
def test_what_comes_back_is_of_the_texts_and_tokens_alone(lengths, more, wider):
    batch = TokenizedTexts.of([[0] * length for length in lengths]).batch(np.arange(len(lengths)), pad_id=0)
    shape = (len(lengths) + more, max(lengths) + wider)
    places = np.stack(np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij"), axis=-1).astype(np.float32)
    tokens, texts = of_texts([places, places[:, 0]], ["last_hidden_state", "sentence_embedding"], batch, shape)
    assert tokens.tolist() == [[row, place] for row, length in enumerate(lengths) for place in range(length)]
    assert texts.tolist() == [[row, 0] for row in range(len(lengths))]
    assert padding_tokens(batch) == padded(batch).input_ids.size - sum(lengths)


@pytest.mark.parametrize("shape", [(2, 4, 1), (1, 3, 1), (2, 3), (3, 3, 1), (2, 1, 1)])
def test_rows_of_another_shape_are_left_for_who_asked(shape):
    """A row for a token that there is not, or the first row alone, as a bundle of CLS rows has it."""
    rows = np.zeros(shape, dtype=np.float32)
    (given_back,) = of_texts([rows], ["last_hidden_state"], batch_of([5, 7, 8], [4]), (2, 3))
    assert given_back is rows
