"""What packed batches are filled up to: few sizes, the batch's own tokens untouched, and no row that is no text's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packed_graphs import batch_of

from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.cuda.shapes import BUCKET_TEXTS, BUCKET_TOKENS, filled, shape_for
from cls_runtime.engines.packing import INPUTS, packed

LENGTHS = st.lists(st.integers(1, 400), min_size=1, max_size=60).map(tuple)


@given(LENGTHS)
def test_a_filled_batch_has_its_shape_and_every_row_belongs_to_a_text(lengths):
    batch = batch_of(*lengths)
    shape = shape_for(batch)
    feeds = filled(batch, shape, INPUTS)
    assert [feeds[name].shape for name in ("input_ids", "token_type_ids", "position_ids")] == [(shape.tokens,)] * 3
    assert feeds["cu_seqlens"].shape == (shape.texts + 1,)
    assert feeds["cls_rows"].shape == (shape.texts,)
    assert feeds["token_offset"].shape == feeds["attention_mask"].shape == (shape.texts, shape.width)
    sizes = np.diff(feeds["cu_seqlens"])
    assert sizes.min() >= 1
    assert sizes.max() <= shape.width
    assert feeds["cu_seqlens"][-1] == shape.tokens
    assert all(array.dtype == np.int32 for array in feeds.values())
    # RestorePadding writes a row to each place once.
    assert sorted(feeds["token_offset"].ravel()) == list(range(shape.texts * shape.width))


@given(LENGTHS)
def test_the_texts_of_a_batch_stay_as_they_are(lengths):
    batch = batch_of(*lengths, unpooled=tuple(length // 2 for length in lengths))
    feeds, plain = filled(batch, shape_for(batch), INPUTS), packed(batch, INPUTS)
    for name in ("input_ids", "token_type_ids", "position_ids"):
        assert (feeds[name][: batch.tokens] == plain[name]).all()
    assert (feeds["cu_seqlens"][: batch.texts + 1] == plain["cu_seqlens"]).all()
    assert (feeds["attention_mask"][: batch.texts, : batch.longest] == plain["attention_mask"]).all()
    assert not feeds["attention_mask"][: batch.texts, batch.longest :].any()


@given(LENGTHS)
def test_a_filler_has_padding_tokens_at_position_0_however_long_it_is(lengths):
    batch = TokenBatch(np.full(sum(lengths), 7, dtype=np.int32), np.array(lengths, dtype=np.int32), pad_id=3)
    feeds = filled(batch, shape_for(batch), INPUTS)
    assert (feeds["input_ids"][batch.tokens :] == 3).all()
    assert not feeds["position_ids"][batch.tokens :].any()


@pytest.mark.parametrize(
    ("lengths", "texts", "tokens", "width"),
    [((1,), 2, 32, 32), ((31,), 2, 32, 32), ((32,), 2, 64, 32), ((26,) * 8, 9, 256, 64), ((30,) * 32, 33, 1024, 64), ((500,), 2, 512, 512)],
)
def test_small_batches_have_one_of_few_sizes(lengths, texts, tokens, width):
    shape = shape_for(batch_of(*lengths))
    assert (shape.texts, shape.tokens, shape.width, shape.is_bucket) == (texts, tokens, width, True)


@pytest.mark.parametrize("lengths", [(1024,), (2,) * 33, (32,) * 32, (400,) * 160])
def test_larger_ones_are_no_buckets(lengths):
    assert not shape_for(batch_of(*lengths)).is_bucket


def test_buckets_are_few():
    """What one text of any length up to 512 tokens, and up to 32 of 25, need."""
    single = {shape_for(batch_of(length)) for length in range(1, 512)}
    several = {shape_for(batch_of(*[25] * texts)) for texts in range(1, 33)}
    assert len(single) <= len(BUCKET_TOKENS) * 2
    assert len(single | several) <= 32
    assert {shape.texts for shape in several} == set(BUCKET_TEXTS)


@given(st.integers(1025, 70_000))
def test_larger_ones_are_rounded_up_by_little(tokens):
    lengths = [25] * (tokens // 25) + ([tokens % 25] if tokens % 25 else [])
    batch = batch_of(*lengths)
    shape = shape_for(batch)
    assert tokens <= shape.tokens <= tokens * 65 / 64 + 1
    assert shape.width == 25


def test_full_runs_have_few_sizes():
    """Runs of a budget of 65,536 tokens: what one gave back fits the next."""
    assert len({shape_for(batch_of(*[25] * (tokens // 25), 1 + tokens % 25)).tokens for tokens in range(64_000, 65_537, 7)}) <= 5
