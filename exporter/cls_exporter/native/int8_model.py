"""A float32 model with int8 products: weights by column, inputs by row, outliers of inputs moved into weights.

Every row of inputs has a scale and zero point of its own, found when it is computed; so no range of the calibration texts can clip a
number, and what is fixed here are the weights and how channels are balanced. Source of the balancing: Xiao et al. 2023, SmoothQuant,
arXiv:2211.10438.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cls_exporter.graph.passes.smoothing import power_of_two
from cls_exporter.native.ranges import Ranges
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import (
    Embeddings,
    Layer,
    NativeModel,
    Product,
    packed_floats,
    packed_integers,
    unpacked_floats,
)

Float64 = NDArray[np.float64]

LARGEST = 127
# Channels of a feed-forward's hidden layer that the texts hardly used answer to few words: each is taken to reach as far as so many do.
QUIET_QUANTILE = 0.8


def int8_model(model: NativeModel, ranges: Ranges, *, alpha: float, kept: Collection[int] = ()) -> NativeModel:
    """The model with int8 products in its layers but those whose identity is in `kept`, and its words in float16.

    Args:
        model: in float32. A last layer for one row a text stays as it is.
        ranges: of all its products' inputs.
        alpha: how much of a channel's magnitude moves into the weights; 0 none, 1 all.
        kept: products that stay in float32, by identity.
    """
    made: dict[int, Layer] = {}
    for layer in model.layers:
        if id(layer) not in made:
            made[id(layer)] = layer if layer.one_row is not None else _Quantizer(model, ranges, alpha, kept).layer(layer)
    return replace(model, layers=tuple(made[id(layer)] for layer in model.layers), embeddings=_half_words(model.embeddings))


class _Quantizer:
    """Makes int8 products of one layer's."""

    def __init__(self, model: NativeModel, ranges: Ranges, alpha: float, kept: Collection[int]) -> None:
        self._model = model
        self._ranges = ranges
        self._alpha = alpha
        self._kept = kept

    def layer(self, layer: Layer) -> Layer:
        """The context is balanced in the columns of the values that it is a mean of, which costs nothing at run time."""
        assert layer.query_key_value is not None
        together, output = layer.query_key_value, layer.attention_output
        if id(output) not in self._kept:
            factors = self._factors(output, self._ranges[id(output)])
            values = np.concatenate([np.ones(2 * len(factors)), factors])
            weight, bias = unpacked_floats(_floats(together)) / values, together.bias / values
            balanced = replace(together, floats=packed_floats(weight.astype(np.float32)), bias=bias.astype(np.float32))
            together = balanced if id(together) in self._kept else self._product(balanced, self._ranges[id(together)])
            output = _rounded(unpacked_floats(_floats(output)) * factors[:, None], output.bias, None)
        elif id(together) not in self._kept:
            together = self._product(together, self._ranges[id(together)])
        down_kept = id(layer.down) in self._kept
        return replace(
            layer,
            query_key_value=together,
            attention_output=output,
            up=layer.up if id(layer.up) in self._kept else self._product(layer.up, self._ranges[id(layer.up)]),
            down=layer.down if down_kept else self._product(layer.down, _with_quiet_raised(self._ranges[id(layer.down)])),
            activation="gelu_coarse" if layer.activation == "gelu" and not down_kept else layer.activation,
        )

    def _product(self, product: Product, largest: Float64) -> Product:
        factors = self._factors(product, largest)
        return _rounded(unpacked_floats(_floats(product)) * factors[:, None], product.bias, (1 / factors).astype(np.float32))

    def _factors(self, product: Product, largest: Float64) -> Float64:
        """What each input is divided by and its weights are multiplied with: about |x|^alpha / |W|^(1 - alpha)."""
        weight = np.abs(unpacked_floats(_floats(product))).max(1).astype(np.float64)
        dead = (largest < 1e-5) | (weight < 1e-8)
        largest, weight = np.where(dead, 1.0, largest), np.where(dead, 1.0, weight)
        return power_of_two(self._alpha * np.log2(largest) - (1 - self._alpha) * np.log2(weight)).astype(np.float64)


def _floats(product: Product) -> Float32:
    assert product.floats is not None
    return product.floats


def _rounded(weight: Float64, bias: Float32, smoothing: Float32 | None) -> Product:
    """Each column in steps of its largest number's 127th part, each number at the nearest step."""
    scales = np.maximum(np.abs(weight).max(0) / LARGEST, np.finfo(np.float32).tiny).astype(np.float32)
    steps = np.clip(np.rint(weight / scales.astype(np.float64)), -LARGEST, LARGEST).astype(np.int8)
    return Product(
        integers=packed_integers(steps),
        scales=scales,
        sums=steps.sum(0, dtype=np.int32),
        smoothing=smoothing,
        bias=bias,
    )


def _with_quiet_raised(largest: Float64) -> Float64:
    """The padding stays quiet."""
    used = largest > 0
    if not used.any():
        return largest
    return np.where(used, np.maximum(largest, np.quantile(largest[used], QUIET_QUANTILE)), 0.0)


def _half_words(embeddings: Embeddings) -> Embeddings:
    """Words in float16, unless one is beyond its range."""
    with np.errstate(over="ignore"):
        words = embeddings.words.astype(np.float16)
    return replace(embeddings, words=words) if np.isfinite(words).all() else embeddings
