"""How alike vectors are, each of one list with each of another, as the functions of sentence-transformers 6 say it.

https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/util/similarity.py
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cls_runtime.bundle.manifest import SimilarityFunction
from cls_runtime.encoding.vector_options import real_numbers
from cls_runtime.errors import UsageError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Differences of so many numbers at a time.
BLOCK_NUMBERS = 2**22
# torch.nn.functional.normalize divides by at least this.
_LEAST_NORM = 1e-12


def similarity(a: ArrayLike, b: ArrayLike, *, function: SimilarityFunction) -> Float32:
    """Of each vector of `a` with each of `b`, the higher the more alike: distances are negative.

    >>> similarity([[1, 0], [1, 1]], [2, 0], function="cosine").astype(float).round(4).tolist()
    [[1.0], [0.7071]]
    >>> similarity([[1, 0], [1, 1]], [2, 0], function="manhattan").tolist()
    [[-1.0], [-2.0]]

    Args:
        a: [n, width], or a vector [width].
        b: [m, width], or a vector [width].
        function: `cosine`, `dot`, `euclidean` or `manhattan`.

    Returns:
        float32 [n, m], computed in float64.

    Raises:
        UsageError: no numbers in one or two dimensions, or two widths.
    """
    first, second = _vectors("a", a), _vectors("b", b)
    if first.shape[1] != second.shape[1]:
        raise UsageError(f"a has vectors of {first.shape[1]} numbers, b of {second.shape[1]}; compare vectors of one width")
    return _FUNCTIONS[function](first, second).astype(np.float32)


def _vectors(name: str, given: ArrayLike) -> Float64:
    try:
        vectors = real_numbers(given).astype(np.float64)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"{name} is a {type(given).__name__}, expected numbers [n, width] or [width]") from None
    if vectors.ndim not in (1, 2):
        raise UsageError(f"{name} has shape {list(vectors.shape)}, expected [n, width] or [width]")
    return np.atleast_2d(vectors)


def _cosine(a: Float64, b: Float64) -> Float64:
    return _dot(*(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), _LEAST_NORM) for rows in (a, b)))


def _dot(a: Float64, b: Float64) -> Float64:
    return np.asarray(a @ b.T)


def _euclidean(a: Float64, b: Float64) -> Float64:
    return _by_difference(a, b, lambda differences: -np.sqrt(np.square(differences).sum(-1)))


def _manhattan(a: Float64, b: Float64) -> Float64:
    return _by_difference(a, b, lambda differences: -np.abs(differences).sum(-1))


def _by_difference(a: Float64, b: Float64, function: Callable[[Float64], Any]) -> Float64:
    """`function` of the differences, as many vectors of `b` at a time as `BLOCK_NUMBERS` has room for."""
    result = np.empty((len(a), len(b)))
    step = max(1, BLOCK_NUMBERS // max(1, b.shape[1]))
    for row, vector in enumerate(a):
        for start in range(0, len(b), step):
            result[row, start : start + step] = function(vector - b[start : start + step])
    return result


_FUNCTIONS: Mapping[SimilarityFunction, Callable[[Float64, Float64], Float64]] = {
    "cosine": _cosine,
    "dot": _dot,
    "euclidean": _euclidean,
    "manhattan": _manhattan,
}
