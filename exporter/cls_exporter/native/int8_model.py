"""A float32 model with int8 products: weights by column, inputs by row, outliers of inputs moved into weights.

Every row of inputs has a scale and zero point of its own, found when it is computed; so no range of the calibration texts can clip a
number, and what is fixed here are the weights and how channels are balanced. Source of the balancing: Xiao et al. 2023, SmoothQuant,
arXiv:2211.10438.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from cls_exporter.graph.passes.smoothing import balance
from cls_exporter.native.moments import Moments
from cls_exporter.native.ranges import Ranges
from cls_exporter.variants.weight_rounding import ANY_PAIR, round_by_descent, round_to_nearest
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

# Channels of a feed-forward's hidden layer that the texts hardly used answer to few words: each is taken to reach as far as so many do.
QUIET_QUANTILE = 0.8


class Int8Products:
    """Every product over all rows of a model as int8, made when it is asked for, and models in which some of them are.

    Args:
        model: in float32. A last layer for one row a text stays as it is.
        ranges: of all its products' inputs.
        alpha: how much of a channel's magnitude moves into the weights; 0 none, 1 all.
        moments: of the balanced inputs, for weights that are rounded by descent; None for the nearest steps.
    """

    def __init__(self, model: NativeModel, ranges: Ranges, *, alpha: float, moments: Moments | None = None) -> None:
        self._model = model
        self._ranges = ranges
        self._alpha = alpha
        self._moments = moments
        self._made: dict[int, Product] = {}
        self._layers = {id(layer): layer for layer in model.layers if layer.one_row is None}
        self._factors = {key: factors for layer in self._layers.values() for key, factors in self._factors_of(layer).items()}

    @property
    def factors(self) -> Mapping[int, Float64]:
        """What each product's inputs are divided by, by its identity."""
        return self._factors

    def with_moments(self, moments: Moments) -> Int8Products:
        """The same balance, with weights rounded by descent."""
        return Int8Products(self._model, self._ranges, alpha=self._alpha, moments=moments)

    def model(self, *, kept: Collection[int] = ()) -> NativeModel:
        """The model with int8 products but those whose identity is in `kept`, and its words in float16."""
        made = {key: self._layer(layer, kept) for key, layer in self._layers.items()}
        layers = tuple(made.get(id(layer), layer) for layer in self._model.layers)
        return replace(self._model, layers=layers, embeddings=_half_words(self._model.embeddings))

    def _layer(self, layer: Layer, kept: Collection[int]) -> Layer:
        assert layer.query_key_value is not None
        together, output = layer.query_key_value, layer.attention_output
        attention = (together, output)
        if not {id(together), id(output)} <= set(kept):
            balanced, read = self._balanced(layer)
            attention = (
                balanced if id(together) in kept else self._rounded(together, balanced, smoothed=True),
                read if id(output) in kept else self._rounded(output, read, smoothed=False),
            )
        down_kept = id(layer.down) in kept
        return replace(
            layer,
            query_key_value=attention[0],
            attention_output=attention[1],
            up=layer.up if id(layer.up) in kept else self._rounded(layer.up, layer.up, smoothed=True),
            down=layer.down if down_kept else self._rounded(layer.down, layer.down, smoothed=True),
            activation="gelu_coarse" if layer.activation == "gelu" and not down_kept else layer.activation,
        )

    def _balanced(self, layer: Layer) -> tuple[Product, Product]:
        """The context is balanced in the columns of the values that it is a mean of, which costs nothing at run time."""
        assert layer.query_key_value is not None
        together, output = layer.query_key_value, layer.attention_output
        factors = self._factors[id(output)]
        values = np.concatenate([np.ones(2 * len(factors)), factors])
        weight, bias = unpacked_floats(_floats(together)) / values, together.bias / values
        balanced = replace(together, floats=packed_floats(weight.astype(np.float32)), bias=bias.astype(np.float32))
        read = (unpacked_floats(_floats(output)) * factors[:, None]).astype(np.float32)
        return balanced, replace(output, floats=packed_floats(read))

    def _rounded(self, product: Product, balanced: Product, *, smoothed: bool) -> Product:
        """`product` in int8, with the weights of `balanced`; each column in steps of its largest number's 127th part."""
        if id(product) not in self._made:
            factors = self._factors[id(product)]
            weight = unpacked_floats(_floats(balanced))
            weight = (weight * factors[:, None]).astype(np.float32) if smoothed else weight
            if self._moments is None:
                stored = round_to_nearest(weight, largest_pair=ANY_PAIR)
            else:
                stored = round_by_descent(weight, self._moments[id(product)], largest_pair=ANY_PAIR)
            self._made[id(product)] = Product(
                integers=packed_integers(stored.integers),
                scales=stored.scales,
                sums=stored.integers.sum(0, dtype=np.int32),
                smoothing=(1 / factors).astype(np.float32) if smoothed else None,
                bias=balanced.bias,
            )
        return self._made[id(product)]

    def _factors_of(self, layer: Layer) -> dict[int, Float64]:
        assert layer.query_key_value is not None
        products = (layer.query_key_value, layer.attention_output, layer.up)
        factors = {id(product): self._factors_for(product, self._ranges[id(product)]) for product in products}
        return {**factors, id(layer.down): self._factors_for(layer.down, _with_quiet_raised(self._ranges[id(layer.down)]))}

    def _factors_for(self, product: Product, largest: Float64) -> Float64:
        weight = np.abs(unpacked_floats(_floats(product))).max(1).astype(np.float64)
        return balance(largest, weight, alpha=self._alpha).astype(np.float64)


def _floats(product: Product) -> Float32:
    assert product.floats is not None
    return product.floats


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
