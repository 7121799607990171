"""float32 arithmetic in NumPy: bit for bit as the kernels do it (`ExactArithmetic`), or as fast as NumPy is (`FastArithmetic`).

What is one operation, rounded once, is the same in both. They differ in sums: the kernels add in one order, with fused multiply-adds, and
BLAS in its own.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import LANES

_BITS_BELOW_FLOAT32 = 2**29 - 1  # of a float64's fraction
_HALF = 2**28
_SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
Float64 = NDArray[np.float64]


class Arithmetic(Protocol):
    """Sums of products, and what the functions of `functions.py` are made of."""

    def fma(self, a: Any, b: Any, c: Any) -> Float32:
        """a * b + c."""

    def product(self, x: Float32, weight: Float32) -> Float32:
        """[..., R, K] times [..., K, N]: a chain of fused multiply-adds over k ascending, from 0."""

    def dot_products(self, x: Float32, y: Float32) -> Float32:
        """[..., R, K] with [..., N, K]: sums of products over 16 lanes, [..., R, N]. K is a multiple of 16."""

    def sums(self, x: Float32) -> Float32:
        """[..., K] -> [..., 1]: sums over 16 lanes. K is a multiple of 16."""

    def sums_of_squares(self, x: Float32) -> Float32:
        """[..., K] -> [..., 1]: the same of squares."""

    def chain(self, x: Float32) -> Float32:
        """[T, K] -> [K]: row after row added up."""


class FastArithmetic:
    """NumPy's own sums, in float32."""

    def fma(self, a: Any, b: Any, c: Any) -> Float32:
        """a * b + c, rounded twice."""
        result: Float32 = a * b + c
        return result

    def product(self, x: Float32, weight: Float32) -> Float32:
        """x @ weight."""
        result: Float32 = x @ weight
        return result

    def dot_products(self, x: Float32, y: Float32) -> Float32:
        """x @ y, transposed."""
        result: Float32 = x @ np.swapaxes(y, -1, -2)
        return result

    def sums(self, x: Float32) -> Float32:
        """Sums of rows."""
        result: Float32 = x.sum(axis=-1, keepdims=True)
        return result

    def sums_of_squares(self, x: Float32) -> Float32:
        """Sums of rows' squares."""
        result: Float32 = np.einsum("...k,...k->...", x, x)[..., None]
        return result

    def chain(self, x: Float32) -> Float32:
        """The sum of rows."""
        result: Float32 = x.sum(axis=0)
        return result


class ExactArithmetic:
    """What the kernels do: a float64 holds the product of two float32 exactly, and its sum with a third is rounded as if at once."""

    def fma(self, a: Any, b: Any, c: Any) -> Float32:
        """a * b + c, rounded once."""
        product = np.multiply(a, b, dtype=np.float64)
        return _sum_to_float32(product, np.broadcast_to(np.asarray(c, dtype=np.float64), product.shape))

    def product(self, x: Float32, weight: Float32) -> Float32:
        """[..., R, K] times [..., K, N]: a chain of fused multiply-adds over k ascending, from 0."""
        wide_x, wide_weight = x.astype(np.float64), weight.astype(np.float64)
        total = np.zeros((*np.broadcast_shapes(x.shape[:-2], weight.shape[:-2]), x.shape[-2], weight.shape[-1]), dtype=np.float64)
        for k in range(x.shape[-1]):
            total[...] = _sum_to_float32(wide_x[..., :, k, None] * wide_weight[..., k, None, :], total)
        return total.astype(np.float32)

    def dot_products(self, x: Float32, y: Float32) -> Float32:
        """[..., R, K] with [..., N, K]: lane j takes the products of k = j, j + 16, ..."""
        wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
        shape = (*np.broadcast_shapes(x.shape[:-2], y.shape[:-2]), x.shape[-2], y.shape[-2], LANES)
        lanes = np.zeros(shape, dtype=np.float64)
        for k in range(0, x.shape[-1], LANES):
            products = wide_x[..., :, None, k : k + LANES] * wide_y[..., None, :, k : k + LANES]
            lanes[...] = _sum_to_float32(products, lanes)
        return _folded(lanes.astype(np.float32))[..., 0]

    def sums(self, x: Float32) -> Float32:
        """[..., K] -> [..., 1]: lane j takes the numbers j, j + 16, ..."""
        lanes = np.zeros((*x.shape[:-1], LANES), dtype=np.float32)
        for k in range(0, x.shape[-1], LANES):
            lanes += x[..., k : k + LANES]
        return _folded(lanes)

    def sums_of_squares(self, x: Float32) -> Float32:
        """[..., K] -> [..., 1]: the same of squares, by fused multiply-adds."""
        lanes = np.zeros((*x.shape[:-1], LANES), dtype=np.float32)
        for k in range(0, x.shape[-1], LANES):
            part = x[..., k : k + LANES]
            lanes = self.fma(part, part, lanes)
        return _folded(lanes)

    def chain(self, x: Float32) -> Float32:
        """[T, K] -> [K]: row after row added up, from 0."""
        total = np.zeros(x.shape[-1], dtype=np.float32)
        for row in x:
            total += row
        return total


def _folded(lanes: Float32) -> Float32:
    """[..., 16] -> [..., 1]: lane j + lane j + 8, + 4, + 2, + 1."""
    while lanes.shape[-1] > 1:
        half = lanes.shape[-1] // 2
        lanes = lanes[..., :half] + lanes[..., half:]
    return lanes


def _sum_to_float32(a: Float64, b: Float64) -> Float32:
    """a + b rounded once to float32, of numbers that a float64 holds with room to spare.

    The sum's rounding to float64 changes what it is rounded to next only where it falls on the middle of two float32.
    """
    total = a + b
    magnitude = np.abs(total)
    doubtful = (total.view(np.int64) & _BITS_BELOW_FLOAT32) == _HALF
    doubtful |= (magnitude < _SMALLEST_NORMAL) & (magnitude > 0)
    if doubtful.any():
        total[doubtful] = _rounded_to_odd(a[doubtful], b[doubtful])
    return total.astype(np.float32)


def _rounded_to_odd(a: Float64, b: Float64) -> Float64:
    """a + b in float64, its last bit set where the sum is not exact: then rounding it again is as rounding once."""
    total = a + b
    virtual = total - a
    error = (a - (total - virtual)) + (b - virtual)
    beyond = np.where(error > 0, np.inf, -np.inf)
    # Where the last bit is not set the neighbour on the side of the error has it set, and the exact sum lies between the two.
    even = (total.view(np.int64) & 1) == 0
    return np.where((error != 0) & even, np.nextafter(total, beyond), total)
