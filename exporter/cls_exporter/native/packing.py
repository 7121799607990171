"""PyTorch's layers as the arrays that the kernels read: transposed, padded with zeros, in panels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import LANES, Norm, Product, packed_floats, padded

Places = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Matrix:
    """y [N] = weight [N, K] x [K] + bias [N], without padding."""

    weight: Float32
    bias: Float32

    @classmethod
    def of(cls, linear: nn.Linear) -> Matrix:
        """A PyTorch layer; zeros where it has no bias."""
        weight = array(linear.weight)
        return cls(weight=weight, bias=np.zeros(len(weight), np.float32) if linear.bias is None else array(linear.bias))

    def scaled(self, factor: float) -> Matrix:
        """The outputs times a factor."""
        times = np.float64(factor)
        return Matrix(weight=(self.weight * times).astype(np.float32), bias=(self.bias * times).astype(np.float32))

    def rows(self, places: Places) -> Matrix:
        """Some of the outputs, in another order."""
        return Matrix(weight=self.weight[places], bias=self.bias[places])


@dataclass(frozen=True, kw_only=True)
class Heads:
    """A heads of `size` numbers, each at a multiple of `stride` in a row of `width`."""

    count: int
    size: int

    @property
    def stride(self) -> int:
        """D, padded."""
        return padded(self.size, LANES)

    @property
    def width(self) -> int:
        """Of all heads, padded."""
        return padded(self.count * self.stride)

    @property
    def places(self) -> Places:
        """Where each of the A * D numbers goes."""
        return (np.arange(self.count)[:, None] * self.stride + np.arange(self.size)).ravel()


def array(tensor: Tensor) -> Float32:
    """A parameter's numbers."""
    numbers: Float32 = tensor.detach().float().cpu().numpy()
    return numbers


def product(matrix: Matrix, *, inputs: Places | None = None, depth: int | None = None) -> Product:
    """A product whose outputs lie one after another; `inputs` are the places of its inputs in a row of `depth`."""
    return product_of([(matrix, np.arange(len(matrix.bias)))], padded(len(matrix.bias)), inputs=inputs, depth=depth)


def product_of(parts: Sequence[tuple[Matrix, Places]], width: int, *, inputs: Places | None = None, depth: int | None = None) -> Product:
    """A product of several: each part's outputs go to its places in a row of `width`."""
    count = parts[0][0].weight.shape[1]
    inputs = np.arange(count) if inputs is None else inputs
    weight = np.zeros((padded(count) if depth is None else depth, width), np.float32)
    bias = np.zeros(width, np.float32)
    for matrix, outputs in parts:
        weight[np.ix_(inputs, outputs)] = matrix.weight.T
        bias[outputs] = matrix.bias
    return Product(floats=packed_floats(weight), bias=bias)


def table(rows: Tensor | Float32) -> Float32:
    """Rows of an embedding, each padded."""
    numbers = array(rows) if isinstance(rows, Tensor) else rows
    padding = padded(numbers.shape[1]) - numbers.shape[1]
    return np.ascontiguousarray(np.pad(numbers, ((0, 0), (0, padding))))


def norm(layer: nn.LayerNorm) -> Norm:
    """A LayerNorm; scale 1 and shift 0 where it has none."""
    size = int(layer.normalized_shape[-1])
    scale = np.ones(size, np.float32) if layer.weight is None else array(layer.weight)
    shift = np.zeros(size, np.float32) if layer.bias is None else array(layer.bias)
    padding = (0, padded(size) - size)
    return Norm(size=size, epsilon=float(layer.eps), scale=np.pad(scale, padding), shift=np.pad(shift, padding))
