"""The parts of a layer in NumPy, by the rules of native/src/kernels.h, whose numbers the comments name.

T tokens, R rows, H hidden, A heads, D head size; all but T and R padded as in `weights`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.exact_arithmetic import Arithmetic
from cls_runtime.engines.native.functions import activated, exp
from cls_runtime.engines.native.weights import (
    LANES,
    Activation,
    Layer,
    Norm,
    OneRow,
    Product,
    Rotation,
    padded,
    unpacked_floats,
    unpacked_integers,
)

_ZERO, _ONE = np.float32(0), np.float32(1)
_EXACT_DEPTH = 512  # a sum of so many products of 8 bits is below 2^24, and float32 holds it whatever the order
_SMALLEST_RANGE, _LARGEST = np.float32(1e-30), np.finfo(np.float32).max


@dataclass(frozen=True)
class Rows:
    """A row of integers and what they mean: about scale * (integers - zero).

    Attributes:
        integers: of 0 to 255, [R, K]; in float32, for BLAS.
        scales, zeros: [R, 1].
    """

    integers: Float32
    scales: Float32
    zeros: NDArray[np.int32]


class Parts:
    """What a layer does to rows, in one arithmetic. Weights stay unpacked, as float32, once they were needed."""

    def __init__(self, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        self._unpacked: dict[int, tuple[Product, Float32]] = {}

    def product(self, x: Float32, product: Product, activation: Activation = "identity", residual: Float32 | None = None) -> Float32:
        """[R, K] -> [R, N]: product, bias, activation, residual (rules 2 to 4)."""
        y = self._float_product(x, product) if product.integers is None else self._integer_product(x, product)
        y = activated(y, activation, self._arithmetic)
        return y if residual is None else y + residual

    def _float_product(self, x: Float32, product: Product) -> Float32:
        return self._arithmetic.product(x, self._weight(product)) + product.bias

    def _integer_product(self, x: Float32, product: Product) -> Float32:
        assert product.sums is not None
        assert product.scales is not None
        rows = quantized(x, product.smoothing)
        weight = self._weight(product)
        total = np.zeros((len(x), product.width), dtype=np.int32)
        for k in range(0, len(weight), _EXACT_DEPTH):
            part = slice(k, k + _EXACT_DEPTH)
            total += (rows.integers[:, part] @ weight[part]).astype(np.int32)
        counted = (total - rows.zeros * product.sums).astype(np.float32)
        return self._arithmetic.fma(counted, rows.scales * product.scales, product.bias)

    def _weight(self, product: Product) -> Float32:
        """[K, N]: the floats, or the integers as floats."""
        if (held := self._unpacked.get(id(product))) is not None:
            return held[1]
        if product.floats is not None:
            weight = unpacked_floats(product.floats)
        else:
            assert product.integers is not None
            weight = unpacked_integers(product.integers).astype(np.float32)
        self._unpacked[id(product)] = product, weight  # with the product, or another one could have its number
        return weight

    def norm(self, x: Float32, norm: Norm | None) -> Float32:
        """[R, H] -> [R, H] (rule 6); without a norm the rows as they are."""
        if norm is None:
            return x
        size = np.float32(norm.size)
        deviations = x - self._arithmetic.sums(x) / size
        deviations[:, norm.size :] = 0
        variance = self._arithmetic.sums_of_squares(deviations) / size
        factor = _ONE / np.sqrt(variance + np.float32(norm.epsilon))
        return self._arithmetic.fma(deviations * factor, norm.scale, norm.shift)

    def feed_forward(self, x: Float32, layer: Layer, residual: Float32) -> Float32:
        """[R, H] -> [R, H], the residual added."""
        if not layer.gated:
            return self.product(self.product(x, layer.up, layer.activation), layer.down, residual=residual)
        both = self.product(x, layer.up)
        half = both.shape[1] // 2
        inner = activated(both[:, :half], layer.activation, self._arithmetic) * both[:, half:]
        return self.product(inner, layer.down, residual=residual)

    def attended(self, three: Float32, layer: Layer, heads: int, head_stride: int, max_length: int) -> Float32:
        """Queries, keys and values of a text, [T, 3 * attention width] -> its context, [T, attention width] (rule 8)."""
        tokens, width = len(three), three.shape[1] // 3
        parts = three.reshape(tokens, 3, width)[:, :, : heads * head_stride].reshape(tokens, 3, heads, head_stride)
        queries, keys, values = parts.transpose(1, 2, 0, 3)  # [A, T, D] each
        if layer.rotation is not None:
            queries, keys = self._rotated(queries, layer.rotation), self._rotated(keys, layer.rotation)
        scores = self._arithmetic.product(queries, np.swapaxes(keys, -1, -2))
        places = np.arange(tokens)
        distances = places - places[:, None]
        if layer.distances is not None:
            scores = scores + layer.distances[:, distances + max_length - 1]
        seen = np.abs(distances) <= layer.window if layer.window else None
        powers, inverse = self._softmax(scores, seen)
        context = np.zeros((tokens, width), dtype=np.float32)
        by_head = self._arithmetic.product(powers, values) * inverse
        context[:, : heads * head_stride] = by_head.transpose(1, 0, 2).reshape(tokens, -1)
        return context

    def attended_row(
        self, query: Float32, x: Float32, row: int, layer: Layer, one_row: OneRow, heads: int, head_stride: int, max_length: int
    ) -> Float32:
        """A query [attention width] against a text's rows, [T, H] -> context [attention width] (rule 9)."""
        taken = heads * head_stride
        by_head = self._weight(one_row.key_by_head)[:taken].reshape(heads, head_stride, -1)
        u = self._arithmetic.product(query[:taken].reshape(heads, 1, head_stride), by_head)[:, 0]  # [A, H]
        scores = self._arithmetic.dot_products(u, x)
        if layer.distances is not None:
            scores = scores + layer.distances[:, np.arange(len(x)) - row + max_length - 1]
        powers, inverse = self._softmax(scores, None)
        c = self._arithmetic.product(powers, x) * inverse  # [A, H]
        columns = self._weight(one_row.value_by_head)[:, :taken].reshape(-1, heads, head_stride).transpose(1, 0, 2)
        context = np.zeros_like(query)
        context[:taken] = self._arithmetic.product(c[:, None], columns).ravel() + one_row.value_by_head.bias[:taken]
        return context

    def _rotated(self, x: Float32, rotation: Rotation) -> Float32:
        """[A, T, D]: the first half of a head turned with the second (rule 12)."""
        tokens, half = x.shape[1], rotation.cosines.shape[1]
        cosines, sines = rotation.cosines[:tokens], rotation.sines[:tokens]
        first, second = x[..., :half], x[..., half : 2 * half]
        turned = x.copy()
        turned[..., :half] = self._arithmetic.fma(first, cosines, -(second * sines))
        turned[..., half : 2 * half] = self._arithmetic.fma(second, cosines, first * sines)
        return turned

    def _softmax(self, scores: Float32, seen: NDArray[np.bool_] | None) -> tuple[Float32, Float32]:
        """e^(score - the largest) of each key, and 1 / their sum, [..., 1]."""
        if seen is not None:
            scores = np.where(seen, scores, np.float32(-np.inf))
        powers = exp(scores - scores.max(axis=-1, keepdims=True), self._arithmetic)
        keys = scores.shape[-1]
        lanes = np.zeros((*scores.shape[:-1], padded(keys, LANES)), dtype=np.float32)
        lanes[..., :keys] = powers
        return powers, _ONE / self._arithmetic.sums(lanes)

    def mean(self, rows: Float32) -> Float32:
        """[T, H] -> [H] (rule 10)."""
        return self._arithmetic.chain(rows) / np.float32(max(len(rows), 1))


def quantized(x: Float32, smoothing: Float32 | None) -> Rows:
    """Each row in 8 bits, with a scale and a zero of its own (rule 7)."""
    values = x if smoothing is None else x * smoothing
    # fmin and fmax pass over what is not a number.
    low = np.fmin.reduce(values, axis=1, keepdims=True, initial=_ZERO)
    high = np.fmax.reduce(values, axis=1, keepdims=True, initial=_ZERO)
    width = high - low
    counts = (width >= _SMALLEST_RANGE) & (width <= _LARGEST)
    divisor = np.where(counts, width, _ONE)
    inverse = np.float32(255) / divisor
    zeros = np.where(counts, np.rint(-low * inverse), _ZERO)
    integers = np.minimum(np.fmax(np.rint(values * inverse) + zeros, _ZERO), np.float32(255))
    integers[~counts[:, 0]] = 0
    return Rows(integers, np.where(counts, width / np.float32(255), _ZERO), zeros.astype(np.int32))
