import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.encoding.batching import pad, plan_batches
from cls_runtime.encoding.tokenizer import TokenizedText

FULL_TOKENS = 128  # a batch of as many is not padded
LENGTHS = st.lists(st.integers(1, 600), max_size=200)


@given(LENGTHS, st.integers(1, 2048))
def test_every_text_is_in_exactly_one_batch(lengths, token_budget):
    batches = plan_batches(lengths, max_length=600, token_budget=token_budget)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(lengths)))
    assert all(len(batch.indices) for batch in batches)


@given(LENGTHS, st.integers(1, 2048))
def test_a_padded_batch_is_within_the_budget_or_has_one_text(lengths, token_budget):
    for batch in plan_batches(lengths, max_length=600, token_budget=token_budget):
        assert batch.rows == 1 or batch.rows * batch.width <= token_budget


@given(LENGTHS, st.integers(1, 2048))
def test_padding_is_at_most_the_spread_of_lengths(lengths, token_budget):
    """Sorted neighbours: what a batch pads is bounded by its own spread, and the spreads do not overlap."""
    spreads = [
        (min(found), max(found))
        for batch in plan_batches(lengths, max_length=600, token_budget=token_budget)
        if (found := [lengths[index] for index in batch.indices])
    ]
    assert all(later[1] <= earlier[0] for earlier, later in itertools.pairwise(spreads))


@given(LENGTHS, st.integers(1, 2048))
def test_only_small_batches_are_padded(lengths, token_budget):
    for batch in plan_batches(lengths, max_length=600, token_budget=token_budget):
        found = [lengths[index] for index in batch.indices]
        assert max(found) == min(found) or len(found) * max(found) < FULL_TOKENS + max(found)


@given(LENGTHS, st.integers(1, 2048))
def test_with_openvino_one_length_always_comes_in_the_same_number(lengths, token_budget):
    batches = plan_batches(lengths, max_length=600, token_budget=token_budget, engine="openvino")
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(lengths)))
    assert all(batch.rows == len(batch.indices) == max(1, token_budget // batch.width) for batch in batches[:-1])


@given(LENGTHS, st.integers(1, 2048))
def test_a_batch_is_as_wide_as_its_longest_text_and_has_a_row_for_each(lengths, token_budget):
    for batch in plan_batches(lengths, max_length=600, token_budget=token_budget):
        assert (batch.rows, batch.width) == (len(batch.indices), max(lengths[index] for index in batch.indices))


@given(LENGTHS, st.integers(1, 2048), st.sampled_from([600, 603, 608]))
def test_with_openvino_what_is_left_has_few_shapes_within_the_budget(lengths, token_budget, max_length):
    for batch in plan_batches(lengths, max_length=max_length, token_budget=token_budget, engine="openvino")[-1:]:
        texts, longest = len(batch.indices), max(lengths[index] for index in batch.indices)
        rounded = min(-(-longest // 8) * 8, max_length)
        full = texts == max(1, token_budget // longest)
        assert batch.width == (longest if full or texts * rounded > token_budget else rounded)
        assert texts <= batch.rows <= (texts if full else texts * 4 / 3 + 1)
        assert batch.rows == 1 or batch.rows * batch.width <= token_budget
        assert batch.rows in {1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256} or (batch.rows + 1) * batch.width > token_budget


@pytest.mark.parametrize(
    ("texts", "length", "shape"),
    [
        (1, 30, (1, 32)),
        (3, 32, (3, 32)),
        (5, 33, (6, 40)),
        (17, 30, (24, 32)),
        (25, 30, (32, 32)),
        (33, 30, (34, 30)),  # 33 x 32 would be more than the budget
        (34, 30, (34, 30)),  # full
        (1, 500, (1, 500)),  # what the model takes at most
    ],
)
def test_shapes_are_rounded_up_with_openvino(texts, length, shape):
    (batch,) = plan_batches([length] * texts, max_length=500, token_budget=1024, engine="openvino")
    assert (batch.rows, batch.width) == shape


@given(LENGTHS.filter(bool), st.integers(1, 2048))
def test_no_batch_is_smaller_than_it_need_be(lengths, token_budget):
    """The next text would not have fitted, or would have been padded in a batch that is full."""
    batches = plan_batches(lengths, max_length=600, token_budget=token_budget)
    for batch, following in itertools.pairwise(batches):
        full = batch.rows * batch.width >= FULL_TOKENS and following.width < batch.width
        assert (batch.rows + 1) * batch.width > token_budget or full


def test_equal_lengths_keep_their_order():
    assert [batch.indices.tolist() for batch in plan_batches([4] * 6, max_length=8, token_budget=8)] == [[0, 1], [2, 3], [4, 5]]


def text(*ids: int, type_ids: bool = True) -> TokenizedText:
    array = np.array(ids, dtype=np.int32)
    return TokenizedText(array, (array % 2).astype(np.int32) if type_ids else None, 0)


def test_padding_is_on_the_right_and_masked():
    batch = pad([text(5, 7, 8), text(4)], pad_id=9)
    assert batch.input_ids.tolist() == [[5, 7, 8], [4, 9, 9]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch.token_type_ids is not None
    assert batch.token_type_ids.tolist() == [[1, 1, 0], [0, 0, 0]]
    assert {array.dtype for array in (batch.input_ids, batch.attention_mask, batch.token_type_ids)} == {np.dtype(np.int64)}


def test_rows_and_columns_that_are_left():
    batch = pad([text(5, 7, 8), text(4)], rows=4, width=4, pad_id=9)
    assert batch.input_ids.tolist() == [[5, 7, 8, 9], *[[4, 9, 9, 9]] * 3]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 0], *[[1, 0, 0, 0]] * 3]


def test_no_type_ids_where_the_graph_takes_none():
    assert pad([text(5, type_ids=False)], pad_id=0).token_type_ids is None
