"""The pass that spares wide int8 products a run over their result."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Builder, Rewritten, constant, known_dims, produced_by
from cls_exporter.graph.passes.token_rows import token_products


class IntegerProducts(ir.passes.InPlacePass):
    """Adds the bias of a wide int8 product while its result is scaled.

    1. `Gemm(DequantizeLinear(a), DequantizeLinear(W), DequantizeLinear(b))` over all tokens, W [K, N] with N > K, becomes
       `com.microsoft::MatMulIntegerToFloat(a, W, .., b)` with a float32 bias.

    For the Gemm, ONNX Runtime first writes the bias into every row of the result, which for a feed-forward's hidden layer is the largest
    tensor of the graph. Narrow products are faster as Gemm. Figures: docs/adr/0003-int8-recipe.md.
    """

    def call(self, model: ir.Model) -> Rewritten:
        count = sum(_rewrite(node) for node in token_products(model))
        if count:
            model.opset_imports.setdefault(MICROSOFT_DOMAIN, 1)
        return Rewritten.of(model, count)


def _rewrite(gemm: ir.Node) -> bool:
    activation, weight = (produced_by(value, "DequantizeLinear") for value in gemm.inputs[:2])
    bias = produced_by(gemm.inputs[2], "DequantizeLinear") if len(gemm.inputs) > 2 else None
    integers = None if weight is None else constant(weight.inputs[0])
    if activation is None or weight is None or bias is None or integers is None or integers.shape[1] <= integers.shape[0]:
        return False
    units, scales = (constant(value) for value in bias.inputs[:2])
    if units is None or scales is None:
        return False
    build = Builder(gemm)
    array = (units.astype(np.float64) * scales.astype(np.float64)).astype(np.float32)
    inputs = [
        *(activation.inputs[0], weight.inputs[0]),
        *(activation.inputs[1], weight.inputs[1]),
        *(activation.inputs[2], weight.inputs[2]),
        build.initializer(array, f"{gemm.outputs[0].name}.float_bias"),
    ]
    shape = known_dims(gemm.outputs[0])
    build.replace(gemm, build.node("MatMulIntegerToFloat", inputs, shape, dtype=ir.DataType.FLOAT, domain=MICROSOFT_DOMAIN))
    return True
