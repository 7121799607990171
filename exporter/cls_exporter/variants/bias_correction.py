"""Bias correction: what quantization adds to a product on average is taken out of its bias."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.passes.rewriting import Builder, constant
from cls_exporter.graph.passes.static_quantization import InputScale, QuantizedWeight
from cls_exporter.graph.passes.token_rows import token_products
from cls_exporter.variants.calibration import InputMeans

Float32 = NDArray[np.float32]


def corrected_biases(
    model: ir.Model, scales: Mapping[str, InputScale], weights: Mapping[str, QuantizedWeight], means: Mapping[str, InputMeans]
) -> dict[str, Float32]:
    """The bias of each product over all tokens that makes its int8 output right on average, float32 [N] by the product's output name.

    A product is linear, so the mean of its error is what it makes of the means of its input, in float and in steps. Rounding is not
    symmetric where an activation is not: most of GELU's output lies between -0.17 and 0.
    Source: Nagel et al. 2019, Data-free quantization through weight equalization and bias correction, arXiv:1906.04721.

    Args:
        model: the smoothed fp32 graph.
        scales: of each product's input, by name.
        weights: each weight in int8, by name.
        means: of each product's input, by name.
    """
    biases: dict[str, Float32] = {}
    for node in token_products(model):
        name, weight = str(node.inputs[0].name), node.inputs[1]  # type: ignore[union-attr]
        exact = np.asarray(constant(weight), dtype=np.float64)
        stored = weights[str(weight.name)]  # type: ignore[union-attr]
        steps = means[name].steps @ stored.integers.astype(np.float64)
        error = means[name].values @ exact - steps * stored.scales * float(scales[name].scale)
        bias = np.asarray(constant(node.inputs[2]), dtype=np.float64) if len(node.inputs) > 2 else 0.0
        biases[str(node.outputs[0].name)] = (bias + error).astype(np.float32)
    return biases


def set_biases(model: ir.Model, biases: Mapping[str, Float32]) -> None:
    """Gives each product its own bias, as `corrected_biases` made it.

    Products that shared one (ALBERT's layers) no longer do, and one without a bias (ModernBERT) gets one: the kernel adds it for nothing.
    """
    for node in token_products(model):
        bias = biases.get(str(node.outputs[0].name))
        if bias is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, Builder(node).initializer(bias, f"{node.outputs[0].name}.corrected_bias"))
