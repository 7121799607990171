"""float32 arithmetic in NumPy, against fractions and against loops of single numbers."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_transformer import ACTIVATIONS

from cls_runtime.engines.native.exact_arithmetic import ExactArithmetic, FastArithmetic
from cls_runtime.engines.native.functions import activated, exp
from cls_runtime.engines.native.reference_layers import quantized

EXACT, FAST = ExactArithmetic(), FastArithmetic()
# Absolute errors of each function by the header of native/src/kernels/functions.h, with room for float32's rounding of large results.
BOUNDS = {
    "gelu": 2.5e-7,
    "gelu_coarse": 2e-6,
    "gelu_tanh": 2.5e-7,
    "silu": 2.5e-7,
    "tanh": 1.5e-7,
    "sigmoid": 1.5e-7,
    "relu": 0,
    "identity": 0,
}
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)


def rounded(value: Fraction) -> np.float32:
    """`value` to float32, half to even: among the neighbours of what rounding twice gives."""
    with np.errstate(over="ignore"):
        near = np.float32(float(value)) if abs(value) < 2**200 else np.float32(math.copysign(math.inf, value))
        if np.isinf(near):
            limit = Fraction(2**128) - Fraction(2**103)
            return np.float32(math.copysign(math.inf if abs(value) >= limit else np.finfo(np.float32).max, value))
        around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    finite = [number for number in around if np.isfinite(number)]
    return min(finite, key=lambda number: (abs(Fraction(float(number)) - value), int(number.view(np.int32)) & 1))


def check_fma(a: float, b: float, c: float) -> None:
    expected = rounded(Fraction(a) * Fraction(b) + Fraction(c))
    with np.errstate(over="ignore"):
        (result,) = EXACT.fma(*(np.array([value], dtype=np.float32) for value in (a, b, c)))
    assert result == expected or (np.isinf(result) and np.isinf(expected)), (a, b, c, result, expected)


@settings(max_examples=1000)
@given(numbers, numbers, numbers)
def test_fma_is_rounded_once(a: float, b: float, c: float) -> None:
    check_fma(a, b, c)


@settings(max_examples=500)
@given(st.integers(0, 2**24), st.integers(0, 2**24), st.integers(-(2**60), 2**60), st.integers(-149, 60), st.booleans())
def test_fma_of_sums_near_the_middle(a: int, b: int, c: int, exponent: int, subnormal: bool) -> None:
    """Products of whole numbers end on the middle of two float32 often, and what is added is tiny or huge."""
    scale = 2.0**-149 if subnormal else 1.0
    check_fma(a * scale, float(b), float(np.float32(c * 2.0 ** float(exponent) * scale)))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize(("small", "expected"), [(2.0**-40, 16777218), (-(2.0**-40), 16777216), (0.0, 16777216)])
def test_fma_where_float64_alone_rounds_twice(sign: int, small: float, expected: int) -> None:
    """97 * 172961 = 2^24 + 1, the middle of two float32; 2^-40 beside it is lost in a float64."""
    arrays = [np.array([value], dtype=np.float32) for value in (97, sign * 172961, sign * small)]
    assert EXACT.fma(*arrays)[0] == sign * expected
    assert np.float32(97.0 * 172961 + 2.0**-40) == 16777216  # or the test shows nothing


@given(st.integers(1, 5), st.integers(1, 7), st.integers(1, 40), st.integers(0, 2**32 - 1))
def test_products_are_chains(rows: int, columns: int, depth: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, w = rng.normal(size=(rows, depth)).astype(np.float32), rng.normal(size=(depth, columns)).astype(np.float32)
    result = EXACT.product(x, w)
    for r in range(rows):
        for n in range(columns):
            total = np.float32(0)
            for k in range(depth):
                total = rounded(Fraction(float(x[r, k])) * Fraction(float(w[k, n])) + Fraction(float(total)))
            assert total == result[r, n]
    np.testing.assert_allclose(FAST.product(x, w), result, atol=1e-4)


@given(st.integers(1, 3), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_sums_are_by_lanes(rows: int, steps: int, seed: int) -> None:
    x = np.random.default_rng(seed).normal(size=(rows, 16 * steps)).astype(np.float32)
    with_ones, squares = EXACT.dot_products(x, np.ones((1, 16 * steps), dtype=np.float32)), EXACT.sums_of_squares(x)
    for r in range(rows):
        lanes = [np.float32(0)] * 16
        for k, value in enumerate(x[r]):
            lanes[k % 16] += value
        for half in (8, 4, 2, 1):
            lanes = [lanes[j] + lanes[j + half] for j in range(half)]
        assert EXACT.sums(x)[r, 0] == lanes[0] == with_ones[r, 0]
    np.testing.assert_array_equal(squares[:, 0], np.diagonal(EXACT.dot_products(x, x)))
    np.testing.assert_allclose(FAST.sums_of_squares(x), squares, rtol=1e-5)
    np.testing.assert_allclose(FAST.sums(x), EXACT.sums(x), atol=1e-5)
    np.testing.assert_allclose(FAST.chain(x), EXACT.chain(x), atol=1e-5)


@pytest.mark.parametrize("arithmetic", [EXACT, FAST], ids=["exact", "fast"])
@pytest.mark.parametrize("name", BOUNDS)
def test_activations_are_near_what_they_are_called(name: str, arithmetic: ExactArithmetic) -> None:
    x = np.concatenate([np.linspace(-20, 20, 20_001), [0, 1e-30, -1e-30, 88, -88, 120, -120, 1e4, -1e4]]).astype(np.float32)
    with np.errstate(all="ignore"):
        exact = ACTIVATIONS[name](x.astype(np.float64))
        error = np.abs(activated(x, name, arithmetic) - exact)
    assert (error / np.maximum(1, np.abs(x)) <= BOUNDS[name]).all(), (x[error.argmax()], error.max())


def test_exp_of_scores() -> None:
    x = np.concatenate([np.linspace(-87, 0, 20_001), [-88, -1e4, -np.inf, -0.0]]).astype(np.float32)
    with np.errstate(invalid="ignore"):
        powers = exp(x, EXACT)
    exact = np.exp(x.astype(np.float64))
    counted = x > -87.33
    assert (np.abs(powers - exact)[counted] <= (1.4e-7 + 1.6e-8 * np.abs(x[counted])) * exact[counted]).all()
    assert (powers[~counted] == 0).all()
    assert powers[-1] == 1


def test_quantized_rows() -> None:
    x = np.array(
        [[-1, 0, 2, 1], [0, 0, 0, 0], [5, 6, 7, 8], [-4, -3, -2, -1], [1e-31, 0, 0, 0], [np.inf, 0, 1, 2], [np.nan, 0, 1, 2]], np.float32
    )
    with np.errstate(all="ignore"):
        rows = quantized(x, None)
        smoothed = quantized(x, np.array([2, 1, 0.5, 1], np.float32))
    np.testing.assert_array_equal(rows.zeros[:, 0], [85, 0, 0, 255, 0, 0, 0])
    np.testing.assert_array_equal(rows.integers[0], [0, 85, 255, 170])
    np.testing.assert_array_equal(rows.integers[[1, 4, 5]], np.zeros((3, 4)))
    np.testing.assert_array_equal(rows.scales[[1, 4, 5]], np.zeros((3, 1)))
    np.testing.assert_array_equal(rows.integers[2], [159, 191, 223, 255])
    np.testing.assert_array_equal(rows.integers[3], [0, 64, 127, 191])  # -127.5 goes to the even -128
    np.testing.assert_array_equal(rows.integers[6], [0, 0, 128, 255])  # what is not a number is 0
    np.testing.assert_array_equal(smoothed.integers[0], [0, 170, 255, 255])
    assert rows.scales[0, 0] == np.float32(3) / np.float32(255)
