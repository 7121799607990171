"""Which texts run together: every text once, within the budget, with and without padding."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime.encoding.batching import plan_batches
from cls_runtime.engines.base import Batching

FULL_TOKENS = 128
PADS = Batching(token_budget=1024, full_tokens=FULL_TOKENS)
PACKS = replace(PADS, pads=False)
KEEPS_SHAPES = replace(PADS, keeps_shapes=True)
LENGTHS = st.lists(st.integers(1, 600), max_size=200)
BUDGETS = st.integers(1, 2048)
EVERY = pytest.mark.parametrize("batching", [PADS, PACKS, KEEPS_SHAPES], ids=["pads", "packs", "keeps shapes"])


def planned(lengths, batching, token_budget):
    """The lengths of the texts of each batch, in its order."""
    batches = plan_batches(lengths, replace(batching, token_budget=token_budget))
    return [[lengths[index] for index in batch.indices] for batch in batches]


def computed(lengths, batching):
    """What a run of texts of these lengths computes: tokens, with what pads them."""
    return len(lengths) * max(lengths) if batching.pads else sum(lengths)


@EVERY
@given(lengths=st.lists(st.integers(0, 600), max_size=200), token_budget=BUDGETS)
def test_every_text_is_in_exactly_one_batch(batching, lengths, token_budget):
    batches = plan_batches(lengths, replace(batching, token_budget=token_budget))
    assert sorted(index for batch in batches for index in batch.indices) == list(range(len(lengths)))
    assert all(len(batch.indices) for batch in batches)


@EVERY
@given(lengths=LENGTHS, token_budget=BUDGETS)
def test_a_batch_is_within_the_budget_or_has_one_text(batching, lengths, token_budget):
    for batch in planned(lengths, batching, token_budget):
        assert len(batch) == 1 or computed(batch, batching) <= token_budget


@EVERY
@given(lengths=LENGTHS, token_budget=BUDGETS)
def test_the_longest_are_first_and_neighbours_run_together(batching, lengths, token_budget):
    """So what a batch pads is bounded by its own spread, and the spreads do not overlap."""
    assert list(itertools.chain(*planned(lengths, batching, token_budget))) == sorted(lengths, reverse=True)


@pytest.mark.parametrize("batching", [PADS, PACKS], ids=["pads", "packs"])
@given(lengths=LENGTHS, token_budget=BUDGETS)
def test_a_full_batch_takes_texts_of_its_own_length_only(batching, lengths, token_budget):
    for batch in planned(lengths, batching, token_budget):
        shorter = [length for length in batch if length < batch[0]]
        assert not shorter or computed(batch[:-1], replace(batching, pads=False)) < FULL_TOKENS


@pytest.mark.parametrize("batching", [PADS, PACKS], ids=["pads", "packs"])
@given(lengths=LENGTHS.filter(bool), token_budget=BUDGETS)
def test_no_batch_is_smaller_than_it_need_be(batching, lengths, token_budget):
    """The next text would not have fitted, or is shorter than those of a batch that is full."""
    for batch, following in itertools.pairwise(planned(lengths, batching, token_budget)):
        full = computed(batch, batching) >= FULL_TOKENS and following[0] < batch[0]
        assert computed([*batch, following[0]], batching) > token_budget or full


@given(LENGTHS, BUDGETS)
def test_where_shapes_are_kept_one_length_always_comes_in_the_same_number(lengths, token_budget):
    for batch in planned(lengths, KEEPS_SHAPES, token_budget)[:-1]:
        assert len(batch) == max(1, token_budget // batch[0])


@EVERY
def test_equal_lengths_keep_their_order(batching):
    batches = plan_batches([4] * 6, replace(batching, token_budget=8))
    assert [batch.indices.tolist() for batch in batches] == [[0, 1], [2, 3], [4, 5]]


def test_without_padding_a_batch_is_as_many_texts_as_have_the_budget_together():
    lengths = [100, 60, 40, 9, 1, 1]
    assert planned(lengths, replace(PACKS, full_tokens=1000), 110) == [[100], [60, 40, 9, 1], [1]]
    assert planned(lengths, PADS, 110) == [[100], [60], [40, 9], [1, 1]]


def test_no_texts_are_no_batches():
    assert plan_batches([], PADS) == plan_batches([], PACKS) == []
