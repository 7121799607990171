"""What calibration texts make of the inputs of products."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from quantization import input_scales

from cls_exporter.graph.passes.token_rows import TokenRows
from cls_exporter.variants import calibration
from cls_exporter.variants.calibration import (
    TEXT_WEIGHT,
    WORD_WEIGHT,
    activation_ranges,
    input_moments,
    merged,
    with_quiet_channels_raised,
    with_random_words,
)
from cls_exporter.variants.calibration_texts import CalibrationTexts
from cls_runtime.engines.padding import PaddedBatch
from cls_runtime.errors import UsageError

WEIGHTS = graphs.random_weights(E=(6, 8), W=(8, 8), b=(8,), V=(8, 4))
TEXTS = ([[0, 1, 2], [3, 4, 5]], [[5, 5]])
WORDS = ([[1, 1, 1]],)


def batches(texts: Sequence[Sequence[Sequence[int]]]) -> list[PaddedBatch]:
    ids = [np.array(rows, dtype=np.int64) for rows in texts]
    return [PaddedBatch(rows, np.ones_like(rows), None) for rows in ids]


@pytest.fixture
def rows() -> ir.Model:
    """x = E[ids]; a product, GELU and another product: two inputs, the embeddings and GELU's output."""
    body = "p = MatMul(x, W)  a = Add(p, b)  h = Gelu(a)  y = MatMul(h, V)"
    model = graphs.parse(f"g (int64[B,S] input_ids) => (float[B,S,4] y) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}", WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def embeddings(texts: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
    """What the first product reads: float64 [tokens, 8]."""
    return np.concatenate([WEIGHTS["E"][np.array(part).reshape(-1)] for part in texts]).astype(np.float64)


def test_a_range_is_that_of_all_tokens_of_all_batches(rows):
    ranges = activation_ranges(rows, batches(TEXTS))
    assert len(ranges) == 2
    first = next(iter(ranges.values()))
    assert np.array_equal(first.low, embeddings(TEXTS).min(0))
    assert np.array_equal(first.high, embeddings(TEXTS).max(0))


def test_ranges_of_parts_are_merged_to_those_of_the_whole(rows):
    parts = [activation_ranges(rows, batches(part)) for part in (TEXTS[:1], TEXTS[1:])]
    whole = activation_ranges(rows, batches(TEXTS))
    for name, item in merged(*parts).items():
        assert np.array_equal(item.low, whole[name].low)
        assert np.array_equal(item.high, whole[name].high)


def test_quiet_channels_of_a_hidden_layer_are_raised_and_those_of_embeddings_are_not(rows):
    ranges = activation_ranges(rows, batches(TEXTS))
    raised = with_quiet_channels_raised(rows, ranges)
    changed = [name for name in ranges if not np.array_equal(ranges[name].high, raised[name].high)]
    assert len(changed) >= 1
    for name in changed:
        bound = np.quantile(ranges[name].high, 0.8)
        assert np.array_equal(raised[name].high, np.maximum(ranges[name].high, bound))


def test_moments_are_those_of_the_steps(rows):
    scales = input_scales(rows)
    moments = dict(input_moments(rows, scales, lambda: batches(TEXTS), lambda: batches(WORDS)))
    assert set(moments) == set(scales)
    name = next(iter(scales))
    scale = scales[name]

    def steps(texts: Sequence[Sequence[Sequence[int]]]) -> np.ndarray:
        zero = int(scale.zero_point)
        return np.clip(np.rint(embeddings(texts) / float(scale.scale)) + zero, 0, 255) - zero

    texts, words = steps(TEXTS), steps(WORDS)
    assert moments[name].weight == TEXT_WEIGHT * len(texts) + WORD_WEIGHT * len(words)
    np.testing.assert_allclose(moments[name].means.values, embeddings(TEXTS).mean(0), rtol=1e-12)
    assert np.array_equal(moments[name].means.steps, texts.mean(0))
    assert np.array_equal(moments[name].products, TEXT_WEIGHT * texts.T @ texts + WORD_WEIGHT * words.T @ words)


def test_moments_that_do_not_fit_together_take_several_runs(rows, monkeypatch):
    """The texts are opened once for each group, and the numbers are the same."""
    scales = input_scales(rows)
    together = dict(input_moments(rows, scales, lambda: batches(TEXTS), lambda: batches(WORDS)))
    monkeypatch.setattr(calibration, "MOMENT_BYTES", 1)
    opened = []

    def texts() -> list[PaddedBatch]:
        opened.append(True)
        return batches(TEXTS)

    apart = dict(input_moments(rows, scales, texts, lambda: batches(WORDS)))
    assert len(opened) == 2
    assert list(apart) == list(together)
    for name, moments in apart.items():
        assert np.array_equal(moments.products, together[name].products)


def test_random_words_leave_special_tokens_and_lengths():
    ids = np.array([[2, 10, 11, 12, 3], [2, 13, 14, 15, 3]], dtype=np.int64)
    given = [PaddedBatch(ids + shift * (ids > 3), np.ones_like(ids), np.zeros_like(ids)) for shift in range(4)]
    made = list(with_random_words(given, special=[0, 1, 2, 3], vocabulary=1000))
    assert len(made) == 2  # every other batch
    for batch, source in zip(made, given[::2], strict=True):
        assert batch.input_ids.shape == source.input_ids.shape
        assert batch.input_ids[:, [0, -1]].tolist() == [[2, 3], [2, 3]]
        assert batch.input_ids[:, 1:-1].min() >= 4
        assert batch.input_ids.max() < 1000
        assert (batch.input_ids != source.input_ids).any()
        assert batch.attention_mask is source.attention_mask
    again = list(with_random_words(given, special=[0, 1, 2, 3], vocabulary=1000))
    assert all(np.array_equal(first.input_ids, second.input_ids) for first, second in zip(made, again, strict=True))


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_texts_come_from_a_regular_file(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "texts.txt"
    {"pipe": os.mkfifo, "device": lambda place: place.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    with pytest.raises(UsageError, match="is not a regular file"):
        CalibrationTexts.of_file(path)
