from __future__ import annotations

from dataclasses import dataclass, field

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.row_selection import ELEMENTWISE, RULES, RowSelection, selected_axis

SQUARE = graphs.random_weights(w=(8, 8), b=(8,), g=(8,))


@dataclass(frozen=True)
class Case:
    """An operation whose output `h` gets row 0 of `axis` selected. `moves` says whether the selection passes the operation."""

    body: str
    result: str
    axis: int = 1
    moves: bool = True
    inputs: str = "float[B,S,8] x"
    weights: dict[str, graphs.Array] = field(default_factory=dict)


def ints(**values: list[int]) -> dict[str, graphs.Array]:
    return graphs.integers(values)


FLAT = ints(to=[0, 0, 2, 4])
CASES: dict[str, list[Case]] = {
    "MatMul": [
        Case("h = MatMul(x, w)", "[B,1,8]"),
        Case("h = MatMul(x, z)", "[B,1,S]", inputs="float[B,S,8] x, float[B,8,S] z"),
        Case("h = MatMul(x, z)", "[B,1,S,S]", inputs="float[B,2,S,8] x, float[1,2,8,S] z"),
        Case("h = MatMul(x, z)", "[B,S,1]", axis=2, moves=False, inputs="float[B,S,8] x, float[B,8,S] z"),
        Case("h = MatMul(x, z)", "[B,1]", moves=False, inputs="float[B,S,8] x, float[8] z"),
    ],
    "Gemm": [
        Case("h = Gemm(x, w, b)", "[1,8]", axis=0, inputs="float[S,8] x"),
        Case("h = Gemm <transB = 1> (x, w)", "[1,8]", axis=0, inputs="float[S,8] x"),
        Case("h = Gemm <transA = 1> (x, w)", "[1,8]", axis=0, moves=False, inputs="float[8,S] x"),
        Case("h = Gemm(x, w, z)", "[1,8]", axis=0, moves=False, inputs="float[S,8] x, float[S,8] z"),
        Case("h = Gemm(x, w, b)", "[S,1]", axis=1, moves=False, inputs="float[S,8] x"),
    ],
    "LayerNormalization": [
        Case("h = LayerNormalization(x, g, b)", "[B,1,8]"),
        Case("h = LayerNormalization <axis = -1> (x, g)", "[B,S,1]", axis=2, moves=False),
        Case("h = LayerNormalization <axis = 1> (x, g)", "[B,1,8]", moves=False, inputs="float[B,S,8] x, float[S,8] g"),
        Case("h = LayerNormalization <axis = -1> (x, g)", "[B,1,8]", moves=False, inputs="float[B,S,8] x, float[S,8] g"),
    ],
    "Softmax": [
        Case("h = Softmax <axis = -1> (x)", "[B,1,8]"),
        Case("h = Softmax <axis = 1> (x)", "[B,S,1]", axis=2),
        Case("h = Softmax <axis = 1> (x)", "[B,1,8]", moves=False),
    ],
    "Transpose": [
        Case("h = Transpose <perm = [1, 0, 2]> (x)", "[S,1,8]"),
        Case("h = Transpose <perm = [0, 2, 1]> (x)", "[B,8,1]", axis=2),
        Case("h = Transpose(x)", "[1,S,B]", axis=0),
    ],
    "Reshape": [
        Case("h = Reshape(x, to)", "[B,1,2,4]", weights=FLAT),
        Case("h = Reshape(x, to)", "[B,1,8]", inputs="float[B,S,2,4] x", weights=ints(to=[0, 0, 8])),
        Case("h = Reshape(x, to)", "[1,S,8]", axis=0, inputs="float[1,B,S,8] x", weights=ints(to=[-1, 0, 8]), moves=False),
        Case(
            "n = Shape <start = 0, end = 1> (x)  to = Concat <axis = 0> (n, tail)  h = Reshape(x, to)",
            "[B,1,2,4]",
            inputs="float[B,7,8] x",
            weights=ints(tail=[7, 2, 4]),
        ),
        Case("h = Reshape(x, to)", "[B,1,4]", weights=ints(to=[0, 16, 4]), inputs="float[B,8,8] x", moves=False),
        Case("h = Reshape(x, to)", "[B,S,1,4]", axis=2, weights=FLAT, moves=False),
    ],
    "Unsqueeze": [
        Case("h = Unsqueeze(x, a)", "[B,1,1,8]", axis=2, weights=ints(a=[1])),
        Case("h = Unsqueeze(x, a)", "[B,1,8,1]", weights=ints(a=[-1])),
        Case("h = Unsqueeze(x, a)", "[B,1,S,8]", weights=ints(a=[1]), moves=False),
    ],
    "Squeeze": [
        Case("h = Squeeze(x, a)", "[B,1,8]", inputs="float[B,1,S,8] x", weights=ints(a=[1])),
        Case("h = Squeeze(x, a)", "[B,1]", inputs="float[B,S,1,1] x", weights=ints(a=[-1, -2])),
        Case("h = Squeeze(x)", "[1,8]", axis=0, inputs="float[1,7,8] x", moves=False),
    ],
    "Concat": [
        Case("h = Concat <axis = -1> (x, z, x)", "[B,1,20]", inputs="float[B,S,8] x, float[B,S,4] z"),
        Case("h = Concat <axis = 1> (x, z)", "[B,1,8]", inputs="float[B,4,8] x, float[B,3,8] z", moves=False),
    ],
    "Split": [
        Case("h, other = Split <axis = -1, num_outputs = 2> (x)", "[B,1,4]"),
        Case("h, other = Split <axis = 1, num_outputs = 2> (x)", "[B,1,8]", inputs="float[B,6,8] x", moves=False),
    ],
    "Slice": [
        Case("h = Slice(x, n, m, a)", "[B,1,3]", weights=ints(n=[2], m=[5], a=[-1])),
        Case("h = Slice(x, n, m)", "[1,6,3]", axis=0, inputs="float[B,6,8] x", weights=ints(n=[0, 0, 2], m=[9, 6, 5]), moves=False),
        Case("h = Slice(x, n, m, a)", "[B,1,8]", inputs="float[B,6,8] x", weights=ints(n=[2], m=[5], a=[1]), moves=False),
    ],
    "Gather": [
        Case("h = Gather(table, x)", "[B,1,8]", inputs="int64[B,S] x", weights=graphs.random_weights(table=(2, 8))),
        Case("h = Gather <axis = 2> (x, i)", "[B,1,2]", weights=ints(i=[5, 3])),
        Case("h = Gather <axis = 1> (x, i)", "[B,3,1]", axis=2, weights=ints(i=[0, 0, 0])),
        Case("h = Gather <axis = 0> (x, i)", "[1,S,8]", axis=0, weights=ints(i=[0, 0])),
    ],
    "GatherElements": [
        # The indices are 0 and 1, so the gathered axis has two rows.
        Case("h = GatherElements <axis = 1> (x, i)", "[B,1,8]", inputs="float[B,2,8] x, int64[B,2,8] i"),
        Case("h = GatherElements <axis = 2> (x, i)", "[B,1,8]", inputs="float[B,S,8] x, int64[B,S,8] i"),
    ],
}


def model_of(case: Case) -> ir.Model:
    text = f"g ({case.inputs}) => (float{case.result} y) {{ {case.body}  r = Slice(h, zero, one, axis)  y = Neg(r) }}"
    return graphs.parse(text, {**SQUARE, **case.weights, **ints(zero=[0], one=[1], axis=[case.axis])})


def flattened() -> list[tuple[str, Case]]:
    return [(operation, case) for operation, cases in CASES.items() for case in cases]


@pytest.mark.parametrize(("operation", "case"), flattened(), ids=lambda item: item.body if isinstance(item, Case) else None)
def test_a_selection_commutes_with_row_wise_operations_only(operation: str, case: Case) -> None:
    model = model_of(case)
    moved = graphs.fires(RowSelection, model)
    assert (moved > 0) == case.moves
    node = next(
        node for node in model.graph if node.op_type == operation and not (operation == "Slice" and selected_axis(node) is not None)
    )
    selected = node.outputs[0].shape
    assert selected is not None
    readers = [reader.op_type for reader in node.outputs[0].consumers()]
    assert readers == (["Neg"] if case.moves else ["Slice"])
    if case.moves:
        assert selected[case.axis] == 1


ARGUMENTS = {
    "Where": "b, x, z",
    **dict.fromkeys("Add And Div Equal Greater GreaterOrEqual Less LessOrEqual Max Min Mul Or PRelu Pow Sub Xor".split(), "x, z"),
}
ATTRIBUTES = {"Cast": " <to = 1>"}
BOOLEAN_INPUTS = ("And", "Or", "Not", "Xor")
BOOLEAN_RESULT = (*BOOLEAN_INPUTS, "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")


SECOND_OPERANDS = ("[B,S,8]", "[1,1,8]", "[S,1]", "[8]")


@pytest.mark.parametrize(
    ("operation", "other"),
    [(operation, other) for operation in sorted(ELEMENTWISE) for other in (SECOND_OPERANDS if operation in ARGUMENTS else ("",))],
)
def test_elementwise_operations(operation: str, other: str) -> None:
    arguments = ARGUMENTS.get(operation, "x")
    kind = "bool" if operation in BOOLEAN_INPUTS else "float"
    inputs = f"{kind}[B,S,8] x" + (f", {kind}{other} z" if "z" in arguments else "") + (", bool[B,S,1] b" if "b" in arguments else "")
    start = "v = Abs(x)" if operation in ("Log", "Sqrt", "Pow") else ""
    arguments = arguments.replace("x", "v") if start else arguments
    back = "y = Cast <to = 1> (r)" if operation in BOOLEAN_RESULT else "y = Neg(r)"
    text = f"""g ({inputs}) => (float[B,1,8] y)
        {{ {start}  h = {operation}{ATTRIBUTES.get(operation, "")}({arguments})  r = Slice(h, zero, one, axis)  {back} }}"""
    model = graphs.parse(text, ints(zero=[0], one=[1], axis=[1]))
    assert graphs.fires(RowSelection, model, tolerance=0) == (2 if start else 1)
    node = next(node for node in model.graph if node.op_type == operation)
    assert node.outputs[0].shape is not None
    assert node.outputs[0].shape[1] == 1


@pytest.mark.parametrize("operation", sorted(RULES))
def test_every_rule_has_a_test_in_which_the_selection_moves(operation: str) -> None:
    assert operation in ELEMENTWISE or any(case.moves for case in CASES[operation])


def test_no_test_is_for_a_rule_that_does_not_exist() -> None:
    assert set(CASES) | set(ELEMENTWISE) == set(RULES)
    assert set(CASES).isdisjoint(ELEMENTWISE)


def encoder(outputs: str = "float[B,8] y", tail: str = "") -> ir.Model:
    """A feed-forward block with a residual, of which the row is gathered."""
    text = f"""g (float[B,S,8] x) => ({outputs})
        {{ a = MatMul(x, w)  b1 = Add(a, b)  c = Gelu(b1)  d = MatMul(c, w)  e = Add(d, x)  n = LayerNormalization(e, g, b)
          y = Gather <axis = 1> (n, first) {tail} }}"""
    return graphs.parse(text, {**SQUARE, "first": np.array(0, dtype=np.int64)})


def test_a_gather_of_row_0_moves_to_the_input() -> None:
    model = encoder()
    assert graphs.fires(RowSelection, model) == 7  # the Gather and six operations
    assert graphs.operators(model) == ["Slice", "MatMul", "Add", "Gelu", "MatMul", "Add", "LayerNormalization", "Squeeze"]


def test_two_gathers_of_the_same_row_share_one_selection() -> None:
    model = encoder("float[B,8] y, float[B,8] z", tail="q = Gather <axis = 1> (n, first)  z = Tanh(q)")
    assert graphs.fires(RowSelection, model) == 8
    assert graphs.operators(model).count("Slice") == 1


def test_a_value_that_is_read_in_full_is_not_computed_twice() -> None:
    model = encoder("float[B,8] y, float[B,S,8] z", tail="z = Tanh(c)")
    assert graphs.fires(RowSelection, model) > 0
    assert graphs.operators(model).count("Gelu") == 1
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    assert sorted(reader.op_type for reader in gelu.outputs[0].consumers()) == ["Slice", "Tanh"]


def test_a_graph_output_is_not_reduced() -> None:
    model = encoder("float[B,8] y, float[B,S,8] n")
    assert graphs.fires(RowSelection, model) == 1
    assert graphs.run(model, graphs.feed_for(model, batch=2, length=5))["n"].shape == (2, 5, 8)


@pytest.mark.parametrize(
    ("body", "inputs", "result"),
    [
        ("y = Gather <axis = 1> (x, i)", "float[B,S,8] x", "[B,8]"),
        ("y = Gather <axis = 1> (x, k)", "float[B,S,8] x", "[B,1,8]"),
        ("y = Gather <axis = 0> (x, f)", "float[B,S,8] x", "[S,8]"),
        ("y = Gather <axis = 1> (x, f)", "float[B,8] x", "[B]"),
    ],
    ids=["last row", "rank kept", "first text", "no rows"],
)
def test_another_gather_is_no_selection(body: str, inputs: str, result: str) -> None:
    indices = {"i": np.array(-1, dtype=np.int64), "k": np.array([0], dtype=np.int64), "f": np.array(0, dtype=np.int64)}
    model = graphs.parse(f"g ({inputs}) => (float{result} y) {{ {body} }}", indices)
    assert graphs.fires(RowSelection, model) == 0


@pytest.mark.parametrize(("start", "end", "axes", "step"), [(1, 2, 1, 1), (0, 2, 1, 1), (0, 1, 1, 2), (0, -1, 1, 1)])
def test_another_slice_is_no_selection(start: int, end: int, axes: int, step: int) -> None:
    text = "g (float[B,7,8] x) => (float[B,k,8] y) { h = Relu(x)  r = Slice(h, n, m, a, s)  y = Neg(r) }"
    assert graphs.fires(RowSelection, graphs.parse(text, ints(n=[start], m=[end], a=[axes], s=[step]))) == 0


def test_an_operation_of_another_domain_stops_the_selection() -> None:
    model = encoder()
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    gelu.domain = "com.microsoft"
    model.opset_imports["com.microsoft"] = 1
    assert RowSelection()(model).count == 4
    assert [reader.op_type for reader in gelu.outputs[0].consumers()] == ["Slice"]


def test_dimensions_without_a_name_are_not_taken_for_equal() -> None:
    model = model_of(CASES["Reshape"][0])
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    model.graph.inputs[0].shape = ir.Shape([None, None, 8])
    reshape.outputs[0].shape = ir.Shape([None, None, 2, 4])
    assert RowSelection()(model).count == 0
