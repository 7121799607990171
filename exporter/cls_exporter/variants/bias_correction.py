"""Bias correction: what quantization adds to a product on average is taken out of its bias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, constant, known_dims
from cls_exporter.graph.passes.smoothing import ChannelRange
from cls_exporter.graph.passes.static_quantization import quantize_products
from cls_exporter.graph.passes.token_rows import token_products
from cls_exporter.variants.calibration import reduced_output, run_graph
from cls_runtime.engines.base import TokenBatch

Float32 = NDArray[np.float32]


def corrected_biases(
    model: ir.Model, ranges: Mapping[str, ChannelRange], batches: Iterable[TokenBatch], *, weight_bits: int
) -> dict[str, Float32]:
    """The bias of each product over all tokens that makes its int8 output right on average, float32 [N] by the product's output name.

    Each product is measured beside an int8 twin that reads the same fp32 input, so one product's error is not laid at another's door.
    Rounding is not symmetric where an activation is not: most of GELU's output lies between -0.17 and 0.
    Source: Nagel et al. 2019, Data-free quantization through weight equalization and bias correction, arXiv:1906.04721.

    Args:
        model: the smoothed fp32 graph; left as it is.
        ranges: of each product's input, by name.
        batches: calibration texts without padding.
        weight_bits: as the int8 graph will have.
    """
    measuring = model.clone()
    products = token_products(measuring)
    twins: list[ir.Node] = []
    outputs: list[str] = []
    for node in products:
        output = node.outputs[0]
        twin = Builder(node).node("Gemm", node.inputs, known_dims(output), name=f"{output.name}.twin").producer()
        assert twin is not None
        error = ir.Value(name=f"{output.name}.error", shape=output.shape, type=output.type)
        measuring.graph.append(ir.node("Sub", [output, twin.outputs[0]], outputs=[error]))
        twins.append(twin)
        outputs.append(reduced_output(measuring, error, "ReduceSum"))
    quantize_products(twins, ranges, weight_bits=weight_bits)
    measuring.graph.sort()
    sums: list[NDArray[np.float64]] | None = None
    tokens = 0
    kept = list(batches)
    for batch, found in zip(kept, run_graph(measuring, kept, outputs), strict=True):
        tokens += batch.input_ids.size
        sums = [array.astype(np.float64) for array in found] if sums is None else [a + b for a, b in zip(sums, found, strict=True)]
    if sums is None:
        raise GraphError("no calibration text was given")
    biases: dict[str, Float32] = {}
    for node, total in zip(products, sums, strict=True):
        bias = np.asarray(constant(node.inputs[2]), dtype=np.float32) if len(node.inputs) > 2 else np.float32(0)
        biases[str(node.outputs[0].name)] = (bias + total / tokens).astype(np.float32)
    return biases


def set_biases(model: ir.Model, biases: Mapping[str, Float32]) -> None:
    """Gives each product its own bias, as `corrected_biases` found it.

    Products that shared one (ALBERT's layers) no longer do, and one without a bias (ModernBERT) gets one: the kernel adds it for nothing.
    """
    for node in token_products(model):
        found = biases.get(str(node.outputs[0].name))
        if found is not None:
            node.resize_inputs(3)
            node.replace_input_with(2, Builder(node).initializer(found, f"{node.outputs[0].name}.corrected_bias"))
