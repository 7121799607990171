import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.batching import FULL_TOKENS, pad, plan_batches
from cls_runtime.tokenizer import TokenizedText

LENGTHS = st.lists(st.integers(1, 600), max_size=200)


@given(LENGTHS, st.integers(1, 2048))
def test_every_text_is_in_exactly_one_batch(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget)
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) for batch in batches)


@given(LENGTHS, st.integers(1, 2048))
def test_a_padded_batch_is_within_the_budget_or_has_one_text(lengths, token_budget):
    for batch in plan_batches(lengths, token_budget=token_budget):
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= token_budget


@given(LENGTHS, st.integers(1, 2048))
def test_padding_is_at_most_the_spread_of_lengths(lengths, token_budget):
    """Sorted neighbours: what a batch pads is bounded by its own spread, and the spreads do not overlap."""
    spreads = [
        (min(found), max(found))
        for batch in plan_batches(lengths, token_budget=token_budget)
        if (found := [lengths[index] for index in batch])
    ]
    assert all(later[1] <= earlier[0] for earlier, later in itertools.pairwise(spreads))


@given(LENGTHS, st.integers(1, 2048))
def test_only_small_batches_are_padded(lengths, token_budget):
    for batch in plan_batches(lengths, token_budget=token_budget):
        found = [lengths[index] for index in batch]
        assert max(found) == min(found) or len(found) * max(found) < FULL_TOKENS + max(found)


@given(LENGTHS, st.integers(1, 2048))
def test_with_openvino_one_length_always_comes_in_the_same_number(lengths, token_budget):
    batches = plan_batches(lengths, token_budget=token_budget, engine="openvino")
    assert sorted(index for batch in batches for index in batch) == list(range(len(lengths)))
    assert all(len(batch) == max(1, token_budget // lengths[batch[0]]) for batch in batches[:-1])


@given(LENGTHS.filter(bool), st.integers(1, 2048))
def test_no_batch_is_smaller_than_it_need_be(lengths, token_budget):
    """The next text would not have fitted, or would have been padded in a batch that is full."""
    batches = plan_batches(lengths, token_budget=token_budget)
    for batch, following in itertools.pairwise(batches):
        longest = max(1, lengths[batch[0]])
        full = len(batch) * longest >= FULL_TOKENS and lengths[following[0]] < longest
        assert (len(batch) + 1) * longest > token_budget or full


def test_equal_lengths_keep_their_order():
    assert [batch.tolist() for batch in plan_batches([4] * 6, token_budget=8)] == [[0, 1], [2, 3], [4, 5]]


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


def test_no_type_ids_where_the_graph_takes_none():
    assert pad([text(5, type_ids=False)], pad_id=0).token_type_ids is None
