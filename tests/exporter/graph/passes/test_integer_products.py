"""The bias of a wide int8 product is added while its result is scaled."""

from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from quantization import quantize

from cls_exporter.graph.passes.integer_products import IntegerProducts
from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN
from cls_exporter.graph.passes.token_rows import TokenRows

WEIGHTS = graphs.random_weights(E=(2, 4), W=(4, 8), b=(8,), V=(4, 4), c=(4,))


def quantized(body: str, width: int) -> ir.Model:
    model = graphs.parse(f"g (int64[B,S] input_ids) => (float[B,S,{width}] y) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}", WEIGHTS)
    TokenRows()(model)
    quantize(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def test_a_wide_product_takes_its_bias_along() -> None:
    model = quantized("p = MatMul(x, W)  y = Add(p, b)", 8)
    assert graphs.fires(IntegerProducts, model) == 1
    found = graphs.operators(model)
    assert found.count("MatMulIntegerToFloat") == 1
    assert "DequantizeLinear" not in found
    product = next(node for node in model.graph if node.op_type == "MatMulIntegerToFloat")
    assert product.domain == MICROSOFT_DOMAIN
    assert product.inputs[6] is not None
    assert product.inputs[6].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize(
    ("body", "width"),
    [("p = MatMul(x, V)  y = Add(p, c)", 4), ("y = MatMul(x, W)", 8)],
    ids=["no wider than its input", "no bias"],
)
def test_must_not_fire(body: str, width: int) -> None:
    assert graphs.fires(IntegerProducts, quantized(body, width)) == 0


def test_what_is_not_quantized_stays() -> None:
    text = "g (int64[B,S] input_ids) => (float[B,S,8] y) { x = Gather<axis = 0>(E, input_ids)  p = MatMul(x, W)  y = Add(p, b) }"
    model = graphs.parse(text, WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    assert graphs.fires(IntegerProducts, model) == 0
