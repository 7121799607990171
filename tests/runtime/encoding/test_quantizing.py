"""Bit for bit sentence-transformers' `quantize_embeddings`, of any numbers and ranges; and what no dtype holds."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from cls_runtime import InvalidVectorError
from cls_runtime.encoding.quantizing import check_fits, quantized

NUMBERS = st.floats(-4, 4, width=32)


@pytest.fixture(scope="module")
def quantize_embeddings():
    return pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is the oracle").quantize_embeddings


@st.composite
def vectors_and_ranges(draw):
    """Vectors, some of their numbers outside the ranges, and ranges of which some have no width."""
    shape = draw(st.tuples(st.integers(0, 5), st.integers(1, 19)))
    vectors = draw(arrays.arrays(np.float32, shape, elements=NUMBERS))
    ends = draw(arrays.arrays(np.float32, (2, shape[1]), elements=NUMBERS))
    return vectors, np.sort(ends, axis=0)


@pytest.mark.parametrize("dtype", ["float32", "int8", "uint8", "binary", "ubinary"])
@given(given_=vectors_and_ranges())
def test_the_bytes_are_those_of_sentence_transformers(quantize_embeddings, dtype, given_):
    vectors, ranges = given_
    ours = quantized(vectors, dtype, ranges=ranges)
    with np.errstate(over="ignore"):
        theirs = quantize_embeddings(vectors, dtype, ranges=ranges)
    assert (ours.dtype, ours.shape, ours.tobytes()) == (theirs.dtype, theirs.shape, theirs.tobytes())


def test_without_ranges_there_are_no_steps():
    with pytest.raises(ValueError, match="int8 needs ranges"):
        quantized(np.zeros((1, 2), np.float32), "int8")


def test_float16_is_rounded_as_numpy_rounds():
    vectors = np.array([[1 / 3, 65519.0, -2e-7]], np.float32)
    np.testing.assert_array_equal(quantized(vectors, "float16"), vectors.astype(np.float16))


@pytest.mark.parametrize(
    ("dtype", "row", "keep_invalid", "message"),
    [
        ("float16", [1, 65520.0], False, "the vector of text 8 has 6.55e+04 at most, float16 ends at 65504; use float32"),
        ("float16", [1e-9, -1e-9], False, "the vector of text 8 has 1e-09 at most, which float16 rounds to zero; use float32"),
        ("int8", [np.nan, 1], True, "the vector of text 8 has numbers that are not finite, which int8 cannot hold; use float32"),
        ("ubinary", [np.inf, 1], True, "the vector of text 8 has numbers that are not finite, which ubinary cannot hold; use float32"),
    ],
)
def test_what_a_dtype_does_not_hold_is_refused(dtype, row, keep_invalid, message):
    vectors = np.array([[1, 2], row], np.float32)
    with pytest.raises(InvalidVectorError) as caught:
        check_fits(vectors, dtype, first_index=7, keep_invalid=keep_invalid)
    assert (str(caught.value), caught.value.index) == (message, 8)
    with pytest.raises(InvalidVectorError, match="the vector of token 1 of text 3 ") as caught:
        check_fits(vectors, dtype, first_index=0, keep_invalid=keep_invalid, text=3)
    assert caught.value.index == 3


def test_float16_has_places_for_what_is_kept():
    vectors = np.array([[np.nan, 1e9], [1e-9, 0]], np.float32)
    check_fits(vectors, "float16", first_index=0, keep_invalid=True)
    kept = quantized(vectors, "float16")
    assert np.isnan(kept[0, 0])
    assert np.isinf(kept[0, 1])
    assert not kept[1].any()
