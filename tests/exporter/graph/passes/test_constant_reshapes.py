from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.constant_reshapes import ConstantReshapes
from cls_exporter.graph.passes.rewriting import constant_ints

SHAPE_OF_X = "count = Shape <start = 0, end = 2> (x)"


def reshape_targets(model: ir.Model) -> list[tuple[int, ...] | None]:
    return [constant_ints(node.inputs[1]) for node in model.graph if node.op_type == "Reshape"]


def computed(target: str, result: str, source: str = "[B,S,8]") -> ir.Model:
    """Reshapes x to B, S (from Shape) and `target`, the way the tracer says it."""
    text = f"g (float{source} x) => (float{result} y) {{ {SHAPE_OF_X}  to = Concat <axis = 0> (count, tail)  y = Reshape(x, to) }}"
    return graphs.parse(text, {"tail": np.array([int(part) for part in target.split()], dtype=np.int64)})


def test_a_computed_target_becomes_constant() -> None:
    model = computed("2 4", "[B,S,2,4]")
    assert graphs.fires(ConstantReshapes, model) == 1
    assert reshape_targets(model) == [(0, 0, 2, 4)]
    assert graphs.operators(model) == ["Reshape"]


def test_one_dimension_that_moves_is_left_to_the_engine() -> None:
    text = """g (float[2,B,4] x) => (float[B,8] y) { count = Shape <start = 1, end = 2> (x)  to = Concat <axis = 0> (count, tail)
        h = Transpose <perm = [1, 0, 2]> (x)  y = Reshape(h, to) }"""
    model = graphs.parse(text, {"tail": np.array([8], dtype=np.int64)})
    assert graphs.fires(ConstantReshapes, model) == 1
    assert reshape_targets(model) == [(0, 8)]


def test_allowzero_is_dropped_with_its_target() -> None:
    text = """g (float[B,S,8] x) => (float[B,S,2,4] y)
        { c = Shape <start = 0, end = 2> (x)  to = Concat <axis = 0> (c, t)  y = Reshape <allowzero = 1> (x, to) }"""
    model = graphs.parse(text, {"t": np.array([2, 4], dtype=np.int64)})
    assert graphs.fires(ConstantReshapes, model) == 1
    assert not any("allowzero" in node.attributes for node in model.graph)


def test_a_reshape_that_changes_nothing_is_dropped() -> None:
    text = "g (float[B,S,8] x) => (float[B,S,8] y) { h = Reshape(x, to)  y = Neg(h) }"
    model = graphs.parse(text, {"to": np.array([0, 0, 8], dtype=np.int64)})
    assert graphs.fires(ConstantReshapes, model) == 1
    assert graphs.operators(model) == ["Neg"]


def test_two_unknown_dimensions_stay_as_they_are() -> None:
    """Only one dimension can be left to the engine, and neither of these is where the input has it."""
    text = """g (float[B,S,8] x) => (float[S,B,8] y) { b = Shape <start = 0, end = 1> (x)  s = Shape <start = 1, end = 2> (x)
        to = Concat <axis = 0> (s, b, t)  y = Reshape(x, to) }"""
    model = graphs.parse(text, {"t": np.array([8], dtype=np.int64)})
    assert graphs.fires(ConstantReshapes, model) == 0


def test_a_constant_target_stays_as_it_is() -> None:
    text = "g (float[B,S,8] x) => (float[B,S,2,4] y) { y = Reshape(x, to) }"
    assert graphs.fires(ConstantReshapes, graphs.parse(text, {"to": np.array([0, 0, 2, 4], dtype=np.int64)})) == 0


def test_a_graph_output_keeps_its_reshape() -> None:
    text = "g (float[B,S,8] x) => (float[B,S,8] y) { y = Reshape(x, to) }"
    assert graphs.fires(ConstantReshapes, graphs.parse(text, {"to": np.array([0, 0, 8], dtype=np.int64)})) == 0
