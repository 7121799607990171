"""The first rows of a packed graph, selected as far up as nothing else is read."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.packed_row_selection import PackedRowSelection
from cls_exporter.graph.pipeline import apply_pass

WEIGHTS = {
    **graphs.random_weights(w=(8, 8), b=(8,), g=(8,)),
    "zero": np.array(0, dtype=np.int64),
    "two": np.array([1, 2], dtype=np.int64),
}
FEED = {**graphs.random_weights(1, x=(7, 8), r=(7, 8)), "cls_rows": np.array([0, 3, 6], dtype=np.int32)}


def made(text: str, outputs: str = "float[batch_size,8] y") -> ir.Model:
    inputs = "float[tokens,8] x, float[tokens,8] r, int32[batch_size] cls_rows"
    return graphs.parse(f"g ({inputs}) => ({outputs}) {{ {text} }}", WEIGHTS)


def moved(model: ir.Model) -> tuple[int, list[str]]:
    """How often it fired, and the operators after it; the numbers are the same, and a second run changes nothing."""
    before = graphs.run(model, FEED)
    count = apply_pass(PackedRowSelection(), model)
    for name, array in graphs.run(model, FEED).items():
        np.testing.assert_allclose(array, before[name], rtol=0, atol=1e-5)
    assert apply_pass(PackedRowSelection(), model) == 0
    return count, graphs.operators(model)


def test_it_moves_through_what_computes_each_row_alone() -> None:
    model = made("p = MatMul(x, w)  s = Add(p, b)  a = Gelu(s)  n = LayerNormalization(a, g, b)  y = Gather <axis = 0> (n, cls_rows)")
    count, operators = moved(model)
    assert (count, operators) == (4, ["Gather", "MatMul", "Add", "Gelu", "LayerNormalization"])
    assert model.graph.outputs[0].name == "y"
    assert all(node.outputs[0].shape == ir.Shape(["batch_size", 8]) for node in model.graph)


def test_a_residual_is_selected_beside_it() -> None:
    _, operators = moved(made("p = MatMul(x, w)  s = Add(p, r)  y = Gather <axis = 0> (s, cls_rows)"))
    assert sorted(operators) == ["Add", "Gather", "Gather", "MatMul"]


def test_a_value_that_two_read_is_selected_once() -> None:
    _, operators = moved(made("e = Relu(x)  p = MatMul(e, w)  s = Add(p, e)  y = Gather <axis = 0> (s, cls_rows)"))
    assert operators == ["Gather", "Relu", "MatMul", "Add"]


@pytest.mark.parametrize(
    ("text", "outputs"),
    [
        ("e = Relu(x)  y = Gather <axis = 0> (e, cls_rows)  z = Neg(e)", "float[batch_size,8] y, float[tokens,8] z"),
        ("e = Relu(x)  y = Gather <axis = 0> (e, cls_rows)", "float[batch_size,8] y, float[tokens,8] e"),
        ("e = CumSum(x, zero)  y = Gather <axis = 0> (e, cls_rows)", "float[batch_size,8] y"),
        ("t = Transpose(x)  e = MatMul(t, r)  y = Gather <axis = 0> (e, cls_rows)", "float[batch_size,8] y"),
    ],
    ids=["read elsewhere too", "an output", "no operator by row", "a product of two activations"],
)
def test_it_rests_where_other_rows_are_needed(text: str, outputs: str) -> None:

    assert moved(made(text, outputs))[0] == 0


def test_a_gather_of_other_rows_stays() -> None:

    assert moved(made("e = Relu(x)  y = Gather <axis = 0> (e, two)", "float[2,8] y"))[0] == 0
