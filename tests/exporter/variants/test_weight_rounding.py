"""Weights as int8: within their bounds, better than to the nearest step, and the same on every CPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cls_exporter.graph.passes.static_quantization import QuantizedWeight
from cls_exporter.variants import weight_rounding
from cls_exporter.variants.weight_rounding import ANY_PAIR, LARGEST_PAIR, round_by_descent, round_to_nearest

WEIGHTS = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 9), st.integers(1, 4)),
    elements=st.floats(-8, 8, width=32),
)


def largest_pairs(integers: np.ndarray) -> np.ndarray:
    """The largest sum of the sizes of two neighbouring rows, by column."""
    size = np.abs(integers.astype(np.int64))
    padded = np.vstack([size, np.zeros((len(size) % 2, size.shape[1]), dtype=np.int64)])
    return padded.reshape(-1, 2, size.shape[1]).sum(1).max(0)


def moments_of(rows: int, *, seed: int = 0, tokens: int = 200) -> np.ndarray:
    """The sum of x x^T over tokens of correlated integer inputs, [rows, rows]."""
    generator = np.random.default_rng(seed)
    mixed = generator.standard_normal((tokens, rows)) @ generator.standard_normal((rows, rows)) + generator.standard_normal(rows)
    steps = np.clip(np.rint(20 * mixed), -127, 128)
    return steps.T @ steps


def loss(weight: np.ndarray, stored: QuantizedWeight, moments: np.ndarray) -> np.ndarray:
    """e^T M e of each column, in units of its scale."""
    error = weight / stored.scales.astype(np.float64) - stored.integers
    return np.einsum("kn,kl,ln->n", error, moments, error)


@given(WEIGHTS)
def test_no_pair_can_saturate_16_bits_and_no_number_is_a_step_off(weight):
    for stored in (round_to_nearest(weight), round_by_descent(weight, moments_of(len(weight)))):
        assert stored.integers.dtype == np.int8
        assert stored.scales.dtype == np.float32
        assert (largest_pairs(stored.integers) * 255 <= 32767).all()
        assert np.abs(stored.integers.astype(int)).max() <= 127
        error = np.abs(weight / stored.scales.astype(np.float64) - stored.integers)
        assert error.max() <= 1.5 + 1e-6  # half a step to the nearest, and one more where its neighbour leaves no room


@given(WEIGHTS)
def test_without_a_limit_for_pairs_every_column_has_127_steps(weight):
    for stored in (
        round_to_nearest(weight, largest_pair=ANY_PAIR),
        round_by_descent(weight, moments_of(len(weight)), largest_pair=ANY_PAIR),
    ):
        scales = np.maximum(np.abs(weight.astype(np.float64)).max(0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
        np.testing.assert_array_equal(stored.scales, scales)
        assert np.abs(stored.integers.astype(int)).max() <= 127
        assert np.abs(weight / scales.astype(np.float64) - stored.integers).max() <= 1 + 1e-6


def test_without_a_limit_for_pairs_the_error_is_smaller():
    weight = np.random.default_rng(3).standard_normal((64, 8)).astype(np.float32)
    moments = moments_of(64)
    free, bound = (round_by_descent(weight, moments, largest_pair=pair) for pair in (ANY_PAIR, LARGEST_PAIR))
    assert (loss(weight, free, moments) * free.scales**2).sum() < (loss(weight, bound, moments) * bound.scales**2).sum()


def test_a_column_uses_the_room_that_it_has():
    """One large number and small neighbours: 127 steps. Two large ones beside each other: 64 each."""
    alone = np.array([[1.0], [0.001], [0.5], [0.002]], dtype=np.float32)
    pair = np.array([[1.0], [1.0], [0.5], [0.2]], dtype=np.float32)
    assert round_to_nearest(alone).integers[0, 0] == 127
    assert round_to_nearest(pair).integers[:2, 0].tolist() == [64, 64]


def test_an_odd_last_row_has_no_neighbour():
    weight = np.array([[0.1], [0.1], [1.0]], dtype=np.float32)
    assert round_to_nearest(weight).integers[2, 0] == 127
    assert round_by_descent(weight, moments_of(3)).integers[2, 0] in {126, 127}


def test_a_column_of_zeros_stays():
    stored = round_by_descent(np.zeros((4, 2), dtype=np.float32), moments_of(4))
    assert not stored.integers.any()
    assert (stored.scales > 0).all()


def test_a_scale_is_at_least_what_a_bias_needs():
    weight = np.ones((4, 2), dtype=np.float32)
    least = np.array([0.0, 3.0])
    for stored in (round_to_nearest(weight, least_scales=least), round_by_descent(weight, moments_of(4), least_scales=least)):
        assert stored.scales[0] < 0.1
        assert stored.scales[1] == 3.0


@pytest.mark.parametrize("seed", range(5))
def test_descent_costs_less_than_the_nearest_steps(seed):
    weight = np.random.default_rng(seed).standard_normal((48, 16)).astype(np.float32)
    moments = moments_of(48, seed=seed)
    nearest, descended = (loss(weight, stored, moments) for stored in (round_to_nearest(weight), round_by_descent(weight, moments)))
    assert (descended <= nearest).all()
    assert descended.sum() < 0.75 * nearest.sum()  # 0.51 to 0.67


@settings(max_examples=30)
@given(WEIGHTS, st.integers(0, 10))
def test_no_column_gets_worse(weight, seed):
    """Fractions of a step are cut to 2^-14 and moments to 24 bits, which is what the tolerance is for."""
    moments = moments_of(len(weight), seed=seed)
    nearest, descended = (loss(weight, stored, moments) for stored in (round_to_nearest(weight), round_by_descent(weight, moments)))
    assert (descended <= nearest * (1 + 1e-3) + 1e-2 * np.diagonal(moments).max()).all()


def test_sums_are_exact_so_that_no_order_of_adding_up_matters(monkeypatch):
    """Another size of block adds up in another order, as another CPU's matrix product does."""
    weight = np.random.default_rng(0).standard_normal((300, 40)).astype(np.float32)
    moments = moments_of(300, tokens=4000) * 1_000_003.0
    results = []
    for block in (64, 7, 300):
        monkeypatch.setattr(weight_rounding, "_BLOCK", block)
        results.append(round_by_descent(weight, moments).integers)
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])


def test_the_unit_of_the_moments_does_not_matter():
    weight = np.random.default_rng(0).standard_normal((16, 8)).astype(np.float32)
    moments = moments_of(16)
    assert np.array_equal(round_by_descent(weight, moments).integers, round_by_descent(weight, moments * 2.0**40).integers)
