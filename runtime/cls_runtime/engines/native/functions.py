"""e^x and the activations, as native/src/kernels/functions.h computes them, operation by operation."""

from __future__ import annotations

import math

import numpy as np

from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import Activation

_ERF_POINTS = np.linspace(-4, 4, 2**16 + 1)
_ERF = np.array([math.erf(x) for x in _ERF_POINTS])


def exp(x: Float32) -> Float32:
    """e^x of x at most 0."""
    powers: Float32 = np.exp(x)
    return powers


def activated(x: Float32, activation: Activation) -> Float32:
    """`activation` of each number."""
    if activation == "identity":
        return x
    if activation == "relu":
        return np.maximum(x, np.float32(0))
    wide = x.astype(np.float64)
    if activation == "tanh":
        y = np.tanh(wide)
    elif activation in ("sigmoid", "silu"):
        y = 1 / (1 + np.exp(-wide)) * (wide if activation == "silu" else 1)
    elif activation == "gelu_tanh":
        y = 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3)))
    else:
        y = 0.5 * wide * (1 + np.interp(wide / math.sqrt(2), _ERF_POINTS, _ERF))
    result: Float32 = y.astype(np.float32)
    return result
