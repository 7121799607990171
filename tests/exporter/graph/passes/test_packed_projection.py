from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.packed_projection import PackedProjection

# x [B, S, 6] -> [B, S, 3, 2, 4]: A 2 heads of D 4.
WEIGHTS = graphs.random_weights(w=(6, 24), b=(24,))


def packed(*, bias: bool, heads_first: bool, part: int = 1, axis: int = 2) -> ir.Model:
    projection = "p = MatMul(x, w)  f = Add(p, b)" if bias else "f = MatMul(x, w)"
    swap = "t = Transpose <perm = [0, 3, 2, 1, 4]> (h)" if heads_first else ""
    source = "t" if heads_first else "h"
    shape = "[B,2,S,4]" if heads_first else "[B,S,2,4]"
    if axis != 2:
        shape = "[B,S,3,4]"
    text = f"""g (float[B,S,6] x) => (float{shape} y)
        {{ {projection}  h = Reshape(f, to)  {swap}  s = Slice({source}, start, end, axis)  z = Squeeze(s, axis)  y = Neg(z) }}"""
    ints = {"to": [0, 0, 3, 2, 4], "start": [part], "end": [part + 1 if part != -1 else 2**31], "axis": [axis]}
    return graphs.parse(text, {**WEIGHTS, **graphs.integers(ints)})


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("heads_first", [True, False])
@pytest.mark.parametrize("part", [0, 1, 2, -1])
def test_a_part_gets_a_projection_of_its_own(bias: bool, heads_first: bool, part: int) -> None:
    model = packed(bias=bias, heads_first=heads_first, part=part)
    assert graphs.fires(PackedProjection, model) == 1
    assert graphs.operators(model) == ["MatMul", *(["Add"] if bias else []), "Reshape", *(["Transpose"] if heads_first else []), "Neg"]
    matmul = next(node for node in model.graph if node.op_type == "MatMul")
    assert matmul.inputs[1].shape == ir.Shape([6, 8])
    assert matmul.inputs[1].name == f"w.{('query', 'key', 'value')[part]}"


PART_0 = {"to": [0, 0, 3, 2, 4], "n": [0], "m": [1], "axis": [2]}


def other(body: str, *, result: str = "[B,S,2,4]", inputs: str = "float[B,S,6] x", ints: dict[str, list[int]] | None = None) -> ir.Model:
    return graphs.parse(f"g ({inputs}) => (float{result} y) {{ {body} }}", {**WEIGHTS, **graphs.integers({**PART_0, **(ints or {})})})


def test_all_three_parts() -> None:
    parts = "".join(f" s{i} = Slice(h, n{i}, n{i + 1}, axis)  y{i} = Squeeze(s{i}, axis)" for i in range(3))
    outputs = ", ".join(f"float[B,S,2,4] y{i}" for i in range(3))
    text = f"g (float[B,S,6] x) => ({outputs}) {{ f = MatMul(x, w)  h = Reshape(f, to) {parts} }}"
    model = graphs.parse(text, {**WEIGHTS, **graphs.integers({**PART_0, **{f"n{i}": [i] for i in range(4)}})})
    assert graphs.fires(PackedProjection, model) == 3
    assert graphs.operators(model).count("MatMul") == 3
    assert all(node.inputs[1].shape == ir.Shape([6, 8]) for node in model.graph if node.op_type == "MatMul")


def test_another_axis_is_not_a_part() -> None:
    assert graphs.fires(PackedProjection, packed(bias=True, heads_first=False, axis=3)) == 0


def test_a_projection_that_is_not_constant_stays() -> None:
    body = "f = MatMul(x, v)  h = Reshape(f, to)  s = Slice(h, n, m, axis)  y = Squeeze(s, axis)"
    assert graphs.fires(PackedProjection, other(body, inputs="float[B,S,6] x, float[6,24] v")) == 0


def test_a_bias_for_every_row_stays() -> None:
    body = "p = MatMul(x, w)  f = Add(p, c)  h = Reshape(f, to)  s = Slice(h, n, m, axis)  y = Squeeze(s, axis)"
    assert graphs.fires(PackedProjection, other(body, inputs="float[B,S,6] x, float[B,1,24] c")) == 0


def test_two_parts_at_once_stay() -> None:
    body = "f = MatMul(x, w)  h = Reshape(f, to)  y = Slice(h, n, m, axis)"
    assert graphs.fires(PackedProjection, other(body, result="[B,S,2,2,4]", ints={"m": [2]})) == 0


def test_another_order_of_axes_stays() -> None:
    body = (
        "f = MatMul(x, w)  h = Reshape(f, to)  t = Transpose <perm = [1, 0, 2, 3, 4]> (h)  s = Slice(t, n, m, axis)  y = Squeeze(s, axis)"
    )
    assert graphs.fires(PackedProjection, other(body, result="[S,B,2,4]")) == 0
