"""The four functions of sentence-transformers, on float32 and on what it makes of it."""

import numpy as np
import pytest

from cls_runtime import UsageError
from cls_runtime.encoding import similarity as module
from cls_runtime.encoding.similarity import similarity

FUNCTIONS = ("cosine", "dot", "euclidean", "manhattan")


def vectors(count: int, width: int = 24, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, width)).astype(np.float32)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (vectors(7), vectors(40, seed=1)),
        (vectors(1)[0], vectors(3, seed=1)),
        (vectors(2), vectors(1, seed=1)[0]),
        (vectors(3), np.zeros((2, 24), np.float32)),
        (vectors(3).astype(np.float16), vectors(2, seed=1).astype(np.float16)),
        (vectors(2).tolist(), vectors(2, seed=1).tolist()),
    ],
    ids=["matrices", "a vector and a matrix", "a matrix and a vector", "zeros", "float16", "lists"],
)
def test_as_sentence_transformers(function, a, b):
    library = pytest.importorskip("sentence_transformers.util", reason="sentence-transformers is the oracle")
    theirs = library.SimilarityFunction.to_similarity_fn(function)(a, b).numpy()
    ours = similarity(a, b, function=function)
    assert (ours.dtype, ours.shape) == (np.float32, theirs.shape)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=2e-5)  # torch adds in float32; measured 4e-6


@pytest.mark.parametrize("function", ["euclidean", "manhattan"])
def test_blocks_change_nothing(function, monkeypatch):
    a, b = vectors(5), vectors(11, seed=1)
    whole = similarity(a, b, function=function)
    monkeypatch.setattr(module, "BLOCK_NUMBERS", 50)
    np.testing.assert_array_equal(similarity(a, b, function=function), whole)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_vectors(function):
    assert similarity(np.zeros((0, 3)), np.zeros((2, 3)), function=function).shape == (0, 2)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 3)), np.zeros((1, 4)), "a has vectors of 3 numbers, b of 4"),
        (np.zeros((1, 1, 3)), np.zeros((1, 3)), r"a has shape \[1, 1, 3\], expected"),
        (np.zeros((1, 3)), "text", "b is a str, expected numbers"),
        ([[1j, 2]], np.zeros((1, 2)), "a is a list, expected numbers"),
        ([[10**400, 2]], np.zeros((1, 2)), "a is a list, expected numbers"),
        ([[1, 2], [1]], np.zeros((1, 2)), "a is a list, expected numbers"),
    ],
)
def test_what_are_no_vectors_of_one_width(a, b, message):
    with pytest.raises(UsageError, match=message):
        similarity(a, b, function="dot")
