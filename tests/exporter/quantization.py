"""Scales and weights for tests that quantize a small graph, without calibration."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import constant
from cls_exporter.graph.passes.static_quantization import InputScale, QuantizedWeight, StaticQuantization
from cls_exporter.graph.passes.token_rows import token_products
from cls_exporter.variants.weight_rounding import round_to_nearest


def input_scales(model: ir.Model, *, largest: float = 4.0) -> dict[str, InputScale]:
    """255 steps from -largest to largest for the input of every product over all tokens."""
    return {str(node.inputs[0].name): InputScale(np.float32(2 * largest / 255), np.uint8(128)) for node in token_products(model)}  # type: ignore[union-attr]


def nearest_weights(model: ir.Model) -> dict[str, QuantizedWeight]:
    """The weight of every product over all tokens, rounded to the nearest steps."""
    weights = {}
    for node in token_products(model):
        array = constant(node.inputs[1])
        assert array is not None
        weights[str(node.inputs[1].name)] = round_to_nearest(np.asarray(array, dtype=np.float32))  # type: ignore[union-attr]
    return weights


def quantize(model: ir.Model, *, largest: float = 4.0) -> None:
    """Quantizes every product over all tokens of a graph after `TokenRows`."""
    StaticQuantization(input_scales(model, largest=largest), nearest_weights(model))(model)
