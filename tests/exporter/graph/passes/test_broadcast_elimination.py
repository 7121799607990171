from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.broadcast_elimination import BroadcastElimination


def expanded(body: str, *, extra: str = "") -> ir.Model:
    """x [B, 2, S, S] and a bias [1, 2, S, S] that is expanded to x's shape first."""
    text = f"g (float[B,2,S,S] x, float[1,2,S,S] bias{extra}) => (float[B,2,S,S] y) {{ to = Shape(x)  wide = Expand(bias, to)  {body} }}"
    model = graphs.parse(text)
    for node in model.graph:
        if node.op_type == "Expand":  # ONNX's inference does not follow Shape to here; the tracer says every shape
            node.outputs[0].shape = model.graph.inputs[0].shape
    return model


@pytest.mark.parametrize("operator", ["Add", "Sub", "Mul", "Div"])
@pytest.mark.parametrize("operands", ["x, wide", "wide, x"])
def test_an_expand_before_an_operator_that_broadcasts_is_dropped(operator: str, operands: str) -> None:
    model = expanded(f"y = {operator}({operands})")
    assert graphs.fires(BroadcastElimination, model, tolerance=0) == 1
    assert graphs.operators(model) == [operator]


@pytest.mark.parametrize("branches", ["x, wide", "wide, x"])
def test_a_branch_of_where(branches: str) -> None:
    model = expanded(f"y = Where(chosen, {branches})", extra=", bool[B,1,1,S] chosen")
    assert graphs.fires(BroadcastElimination, model) == 1
    assert graphs.operators(model) == ["Where"]


def test_one_of_two_expands_stays() -> None:
    """Without both, nothing would say the shape of the result."""
    text = """g (float[B,1,S] a, float[1,3,S] b) => (float[B,3,S] y)
        { n = Shape <start = 0, end = 1> (a)  m = Shape <start = 1, end = 3> (b)  to = Concat <axis = 0> (n, m)
          wide = Expand(a, to)  tall = Expand(b, to)  y = Add(wide, tall) }"""
    model = graphs.parse(text)
    for node in model.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = model.graph.outputs[0].shape
    assert graphs.fires(BroadcastElimination, model) == 1
    assert graphs.operators(model).count("Expand") == 1


def test_an_expand_that_gives_the_result_its_shape_stays() -> None:
    text = """g (float[1,S] x, float[1,S] bias, float[B,S] like) => (float[B,S] y)
        { to = Shape(like)  wide = Expand(bias, to)  y = Add(x, wide) }"""
    model = graphs.parse(text)
    for node in model.graph:
        if node.op_type == "Expand":
            node.outputs[0].shape = model.graph.outputs[0].shape
    assert graphs.fires(BroadcastElimination, model) == 0


def test_dimensions_without_a_name_are_not_taken_for_equal() -> None:
    model = expanded("y = Add(x, wide)")
    model.graph.inputs[0].shape = ir.Shape([None, 2, None, None])
    for node in model.graph:
        for output in node.outputs:
            if output.name == "y":
                output.shape = ir.Shape([None, 2, None, None])
    assert BroadcastElimination()(model).count == 0


def test_an_operator_that_does_not_broadcast_keeps_its_expand() -> None:
    model = expanded("z = MatMul(x, wide)  y = Neg(z)")
    assert graphs.fires(BroadcastElimination, model) == 0
