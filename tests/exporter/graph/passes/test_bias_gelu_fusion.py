"""A bias and the GELU behind it as one operator."""

from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.bias_gelu_fusion import BiasGeluFusion

WEIGHTS = graphs.random_weights(w=(8, 6), b=(6,), row=(1, 6), one=(1,))


def made(text: str, inputs: str = "float[B,S,8] x") -> ir.Model:
    return graphs.parse(f"g ({inputs}) => (float[B,S,6] y) {{ {text} }}", WEIGHTS)


@pytest.mark.parametrize(("approximate", "operator"), [("none", "BiasGelu"), ("tanh", "FastGelu")])
@pytest.mark.parametrize("total", ["Add(p, b)", "Add(b, p)"])
def test_they_are_one(approximate: str, operator: str, total: str) -> None:
    model = made(f'p = MatMul(x, w)  s = {total}  y = Gelu <approximate = "{approximate}"> (s)')
    assert graphs.fires(BiasGeluFusion, model, tolerance=1e-4) == 1
    assert graphs.operators(model) == ["MatMul", operator]


@pytest.mark.parametrize(
    "text",
    [
        "p = MatMul(x, w)  s = Add(p, b)  y = Relu(s)",
        "p = MatMul(x, w)  y = Gelu(p)",
        "p = MatMul(x, w)  s = Add(p, row)  y = Gelu(s)",
        "p = MatMul(x, w)  s = Add(p, one)  y = Gelu(s)",
        "p = MatMul(x, w)  s = Add(p, b)  g = Gelu(s)  y = Add(g, s)",
        "p = MatMul(x, w)  q = Neg(p)  s = Add(q, b)  y = Gelu(s)",
    ],
    ids=["another activation", "no bias", "a matrix", "one number", "read elsewhere too", "no product"],
)
def test_anything_else_stays(text: str) -> None:
    model = made(text)
    before = graphs.operators(model)
    assert graphs.fires(BiasGeluFusion, model) == 0
    assert graphs.operators(model) == before
