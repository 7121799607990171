"""Scores of a classifier's logits, by the activation that a bundle names."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import LogitsActivation

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def scores_of(logits: Float32, activation: LogitsActivation) -> Float64:
    """Scores [n, labels] of logits [n, labels], in float64: a sigmoid tells no large logits apart in float32, and order is all of a rank.

    >>> scores_of(np.array([[0.0, 0.0]], np.float32), "softmax").tolist()
    [[0.5, 0.5]]
    """
    return _ACTIVATIONS[activation](logits.astype(np.float64))


def _softmax(logits: Float64) -> Float64:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _gelu(logits: Float64) -> Float64:
    flat = [x * (1 + math.erf(x / math.sqrt(2))) / 2 for x in logits.ravel().tolist()]
    return np.array(flat).reshape(logits.shape)


_ACTIVATIONS: Mapping[LogitsActivation, Callable[[Float64], Float64]] = {
    "identity": lambda logits: logits,
    "sigmoid": lambda logits: np.exp(-np.logaddexp(0, -logits)),
    "softmax": _softmax,
    "tanh": np.tanh,
    "relu": lambda logits: np.maximum(logits, 0),
    "gelu": _gelu,
}
