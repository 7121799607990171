"""Products over all tokens as Gemm on rows."""

from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.token_rows import TokenRows, token_products

WEIGHTS = graphs.random_weights(E=(2, 8), W=(8, 8), b=(8,), V=(8, 4), g=(8,), n=(8,)) | graphs.integers(
    {"row_0": [0], "row_1": [1], "axis_1": [1]}
)


def tokens(body: str, output: str = "float[B,S,8] y") -> ir.Model:
    text = f"g (int64[B,S] input_ids) => ({output}) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}"
    return graphs.parse(text, WEIGHTS)


def test_a_product_and_its_bias_are_one_gemm() -> None:
    model = tokens("p = MatMul(x, W)  y = Add(p, b)")
    assert graphs.fires(TokenRows, model) == 1
    assert "MatMul" not in graphs.operators(model)
    (gemm,) = token_products(model)
    assert [value.name for value in gemm.inputs[1:] if value is not None] == ["W", "b"]


def test_a_product_without_a_bias_is_a_gemm_of_two_inputs() -> None:
    model = tokens("y = MatMul(x, V)", "float[B,S,4] y")
    assert graphs.fires(TokenRows, model) == 1
    (gemm,) = token_products(model)
    assert len(gemm.inputs) == 2


def test_what_works_on_each_token_alone_stays_in_rows() -> None:
    model = tokens("p = MatMul(x, W)  a = Add(p, b)  h = Gelu(a)  m = LayerNormalization<axis = -1>(h, g, n)  y = MatMul(m, W)")
    assert graphs.fires(TokenRows, model, tolerance=1e-4) == 2
    operators = graphs.operators(model)
    first, last = operators.index("Gemm"), len(operators) - 1 - operators[::-1].index("Gemm")
    assert operators[first : last + 1] == ["Gemm", "Gelu", "LayerNormalization", "Gemm"]


@pytest.mark.parametrize(
    "model",
    [
        tokens("t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(t, x)  y = MatMul(x, s)"),
        tokens("r = Slice(x, row_0, row_1, axis_1)  q = MatMul(r, W)  k = MatMul(x, W)  y = Add(k, q)"),
    ],
    ids=["no constant", "the pruned layer's hidden states"],
)
def test_other_products_stay_as_they_are(model: ir.Model) -> None:
    assert graphs.fires(TokenRows, model) == 0


def test_a_product_that_is_kept_stays_as_it_is() -> None:
    model = tokens("p = MatMul(x, W)  y = MatMul(p, V)", "float[B,S,4] y")
    assert graphs.fires(lambda: TokenRows(kept=["V"]), model) == 1
    assert [node.inputs[1].name for node in token_products(model)] == ["W"]  # type: ignore[union-attr]
    assert [node.inputs[1].name for node in model.graph if node.op_type == "MatMul"] == ["V"]  # type: ignore[union-attr]


def test_a_graph_without_ids_is_refused() -> None:
    with pytest.raises(GraphError, match="input_ids"):
        TokenRows()(graphs.parse("g (float[B,S,8] x) => (float[B,S,8] y) { y = MatMul(x, W) }", WEIGHTS))
