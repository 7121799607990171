"""A family's layers as products and norms; the same PyTorch module gives the same object, so that shared layers stay one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import nn

from cls_exporter.native.packing import Heads, Matrix, norm, product, product_of
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import Activation, Layer, Norm, OneRow, Product, Rotation, padded


@dataclass(frozen=True, kw_only=True, eq=False)
class LayerParts:
    """One layer of PyTorch's modules, whatever they are called.

    Attributes:
        queries, keys, values: [A * D, H] each, unscaled.
        output: of the attention, [H, A * D].
        up: [F, H], or [2 F, H] where the second half is multiplied.
        down: [H, F].
        attention_norm, feed_forward_norm: None where there is none.
        settings: further fields of a `Layer`.
    """

    queries: Matrix
    keys: Matrix
    values: Matrix
    output: Matrix
    up: Matrix
    down: Matrix
    attention_norm: nn.LayerNorm | None
    feed_forward_norm: nn.LayerNorm | None
    activation: Activation
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Positions:
    """What the scores of a layer know of positions beside what is in the rows."""

    rotation: Rotation | None = None
    distances: Float32 | None = None
    window: int = 0


def layer_of(parts: LayerParts, heads: Heads, positions: Positions, *, one_row: bool) -> Layer:
    """The layer in float32; with `one_row` its attention is for one row a text."""
    scaled = parts.queries.scaled(heads.size**-0.5)
    gated = bool(parts.settings.get("gated"))
    return Layer(
        query_key_value=None if one_row else _query_key_value(scaled, parts.keys, parts.values, heads),
        one_row=_one_row(scaled, parts.keys, parts.values, heads) if one_row else None,
        attention_output=product(parts.output, inputs=heads.places, depth=heads.width),
        up=_up(parts.up, gated=gated),
        down=product(parts.down),
        attention_norm=_norm(parts.attention_norm),
        feed_forward_norm=_norm(parts.feed_forward_norm),
        activation=parts.activation,
        rotation=positions.rotation,
        distances=positions.distances,
        window=positions.window,
        **parts.settings,
    )


def _norm(layer: nn.LayerNorm | None) -> Norm | None:
    return None if layer is None else norm(layer)


def _query_key_value(queries: Matrix, keys: Matrix, values: Matrix, heads: Heads) -> Product:
    parts = [(matrix, heads.places + place * heads.width) for place, matrix in enumerate((queries, keys, values))]
    return product_of(parts, 3 * heads.width)


def _one_row(queries: Matrix, keys: Matrix, values: Matrix, heads: Heads) -> OneRow:
    """The bias of keys adds the same to every score of a query, which a softmax takes away."""
    back = Matrix(weight=np.ascontiguousarray(keys.weight.T), bias=np.zeros(keys.weight.shape[1], np.float32))
    return OneRow(
        query=product_of([(queries, heads.places)], heads.width),
        key_by_head=product(back, inputs=heads.places, depth=heads.width),
        value_by_head=product_of([(values, heads.places)], heads.width),
    )


def _up(matrix: Matrix, *, gated: bool) -> Product:
    if not gated:
        return product(matrix)
    half = len(matrix.bias) // 2
    places = np.arange(half)
    width = padded(half)
    return product_of([(matrix.rows(places), places), (matrix.rows(places + half), places + width)], 2 * width)
