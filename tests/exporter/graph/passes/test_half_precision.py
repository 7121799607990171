"""A float32 graph in float16, and what of it stays float32."""

from __future__ import annotations

import functools

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import attention

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.half_precision import HalfPrecision, computed_in_float16, half

LOWEST = np.array(np.finfo(np.float32).min, dtype=np.float32)
TOLERANCE = 2e-2  # of numbers up to about 10: eleven bits


def types(model: ir.Model) -> dict[str, str]:
    """Operator -> the type of its output; `operators` removes what is unused."""
    graphs.operators(model)
    return {node.op_type: str(node.outputs[0].dtype) for node in model.graph if node.op_type != "Cast"}


def constants(model: ir.Model) -> list[np.ndarray]:
    graphs.operators(model)
    return [
        value.const_value.numpy() for node in model.graph for value in node.inputs if value is not None and value.const_value is not None
    ]


WEIGHTS = {**graphs.random_weights(w=(8, 8), gamma=(8,), beta=(8,)), "scale": np.array(0.5, dtype=np.float32)}


def test_weights_and_compute_are_float16_and_the_signature_stays() -> None:
    model = graphs.parse("g (int64[B,S] ids) => (float[B,S,8] y) { e = Gather(w, ids)  p = MatMul(e, w)  y = Mul(p, scale) }", WEIGHTS)
    assert graphs.fires(HalfPrecision, model, tolerance=TOLERANCE) > 0
    assert types(model) == {"Gather": "FLOAT16", "MatMul": "FLOAT16", "Mul": "FLOAT16"}
    assert {array.dtype for array in constants(model)} == {np.dtype(np.float16)}
    assert model.graph.outputs[0].dtype == ir.DataType.FLOAT


def test_arithmetic_on_positions_stays_float32() -> None:
    """Half of the numbers of a text of 5,000 tokens are not float16, and a logarithm decides between two buckets."""
    text = """g (int64[B,S] ids) => (float[B,S,8] y) {
        f = Cast <to = 1> (ids)  d = Div(f, scale)  l = Log(d)  m = Mul(l, scale)  i = Cast <to = 7> (m)  z = Mul(i, zero)
        e = Gather(w, z)  y = MatMul(e, w) }"""
    model = graphs.parse(text, {**WEIGHTS, "zero": np.array(0, dtype=np.int64)})
    assert graphs.fires(HalfPrecision, model, tolerance=TOLERANCE) > 0
    kinds = types(model)
    assert {kinds["Div"], kinds["Log"]} == {"FLOAT"}
    assert {kinds["Gather"], kinds["MatMul"]} == {"FLOAT16"}


@pytest.mark.parametrize("table", [True, False], ids=["a table of angles", "computed angles"])
def test_a_rotation_is_computed_in_float32(table: bool) -> None:
    angles = "c = Gather(angles, ids)  s = Gather(angles, ids)" if table else "f = Cast <to = 1> (i3)  c = Cos(f)  s = Sin(f)"
    text = f"""g (int64[B,S] ids) => (float[B,S,8] y) {{ e = Gather(w, ids)  i3 = Unsqueeze(ids, last)  {angles}
        n = Neg(e)  a = Mul(e, c)  b = Mul(n, s)  r = Add(a, b)  y = MatMul(r, w) }}"""
    weights = {**WEIGHTS, **graphs.random_weights(seed=1, angles=(4, 8)), **graphs.integers({"last": (2,)})}
    model = graphs.parse(text, weights)
    assert graphs.fires(functools.partial(HalfPrecision, tables=["angles"]), model, tolerance=TOLERANCE) > 0
    kinds = types(model)
    assert {kinds["Mul"], kinds["Add"]} == {"FLOAT"}
    assert {kinds["Neg"], kinds["MatMul"]} == {"FLOAT16"}
    if table:
        assert [array.dtype for array in constants(model) if array.shape == (4, 8)] == [np.float32, np.float32]


def test_softmax_and_what_is_added_to_its_scores_are_float32() -> None:
    model = attention(inputs="float[B,S,8] x, int64[B,S] attention_mask")
    as_integers(model)
    HalfPrecision()(model)
    kinds = {node.outputs[0].name: node.outputs[0].dtype for node in model.graph}
    assert kinds["s"] == ir.DataType.FLOAT16
    assert {kinds[name] for name in ("z", "m", "weights", "mask")} == {ir.DataType.FLOAT}


COUNTED = "f = Cast <to = 1> (mask)  c = Unsqueeze(f, last)  e = Gather(w, ids)  p = MatMul(e, w)"


def test_a_sum_over_counted_tokens_and_what_divides_it_are_float32() -> None:
    """A thousand tokens add up beyond what eleven bits tell apart."""
    mean = "m = Mul(p, c)  s = ReduceSum <keepdims = 0> (m, axis)  n = ReduceSum <keepdims = 0> (c, axis)  k = Clip(n, tiny)  y = Div(s, k)"
    values = {**WEIGHTS, "tiny": np.array(1e-9, dtype=np.float32), "axis": np.array([1]), "last": np.array([2])}
    model = graphs.parse(f"g (int64[B,S] ids, int64[B,S] mask) => (float[B,S,8] p, float[B,8] y) {{ {COUNTED}  {mean} }}", values)
    assert graphs.fires(HalfPrecision, model, tolerance=TOLERANCE) > 0
    kinds = types(model)
    assert {kinds[name] for name in ("Mul", "ReduceSum", "Clip", "Div")} == {"FLOAT"}
    assert kinds["MatMul"] == "FLOAT16"
    casts = [node.outputs[0].name for node in model.graph if node.op_type == "Cast" and node.inputs[0].dtype == ir.DataType.FLOAT16]  # type: ignore[union-attr]
    assert casts == ["p"]  # the output in float32 is what the sum reads


def test_another_sum_is_float16() -> None:
    text = "g (int64[B,S] ids) => (float[B,8] y) { e = Gather(w, ids)  p = MatMul(e, w)  y = ReduceSum <keepdims = 0> (p, axis) }"
    model = graphs.parse(text, {**WEIGHTS, "axis": np.array([1])})
    HalfPrecision()(model)
    assert types(model)["ReduceSum"] == "FLOAT16"


def test_a_softplus_and_operators_without_a_kernel_are_computed_in_float32() -> None:
    """Softplus of -10 is 4.5e-5, which is a float16; 1 + 4.5e-5, from which it is computed, is none."""
    text = """g (int64[B,S] ids) => (float[B,S,8] y) {
        e = Gather(w, ids)  p = MatMul(e, w)  s = Softplus(p)  q = MatMul(s, w)  h = HardSwish(q)  y = MatMul(h, w) }"""
    model = graphs.parse(text, WEIGHTS)
    assert graphs.fires(functools.partial(HalfPrecision, float32=["HardSwish"]), model, tolerance=0.5) > 0  # of numbers up to 200
    assert types(model) == {"Gather": "FLOAT16", "MatMul": "FLOAT16", "Softplus": "FLOAT", "HardSwish": "FLOAT"}


def as_integers(model: ir.Model) -> None:
    """Lets `x` be looked up, as an encoder's embeddings are: graph inputs are integers."""
    x = model.graph.inputs[0]
    ids = model.graph.inputs[1]
    table = ir.Value(name="table.x", const_value=ir.tensor(graphs.random_weights(t=(2, 8))["t"], name="table.x"))
    table.shape, table.type = ir.Shape([2, 8]), ir.TensorType(ir.DataType.FLOAT)
    model.graph.register_initializer(table)
    looked_up = ir.Value(name="looked_up", shape=x.shape, type=x.type)
    model.graph.insert_before(model.graph[0], ir.node("Gather", [table, ids], outputs=[looked_up]))
    x.replace_all_uses_with(looked_up)
    model.graph.inputs.remove(x)


def test_a_row_that_is_all_padding_gives_numbers() -> None:
    model = attention()
    as_integers(model)
    feed = {"attention_mask": np.array([[1, 1, 0], [0, 0, 0]], dtype=np.int64)}
    before = graphs.run(model, feed)["y"]
    HalfPrecision()(model)
    np.testing.assert_allclose(graphs.run(model, feed)["y"], before, rtol=0, atol=TOLERANCE)


def test_a_mask_outside_a_softmax_ends_where_float16_does() -> None:
    text = """g (int64[B,S] ids) => (float[B,S,8] y) {
        e = Gather(w, ids)  i3 = Unsqueeze(ids, last)  k = Cast <to = 9> (i3)  y = Where(k, e, low) }"""
    model = graphs.parse(text, {**WEIGHTS, "low": LOWEST, **graphs.integers({"last": (2,)})})
    HalfPrecision()(model)
    assert min(float(array.min()) for array in constants(model) if array.size == 1) == -65504
    rows = graphs.run(model, {"ids": np.array([[0, 1]], dtype=np.int64)})["y"]
    assert np.isfinite(rows).all()


def test_a_mask_made_of_a_mask_is_limited_before_it_is_a_float16() -> None:
    """So transformers 4.57 traces a window: the padding's mask, filled once more outside of the window."""
    text = """g (int64[B,S] ids) => (float[B,S,8] y) {
        e = Gather(w, ids)  i3 = Unsqueeze(ids, last)  f = Cast <to = 1> (i3)  n = Sub(one, f)  k = Cast <to = 9> (n)
        m = Where(k, low, n)  o = Where(k, low, m)  y = Add(e, o) }"""
    weights = {**WEIGHTS, "low": LOWEST, "one": np.array(1, dtype=np.float32), **graphs.integers({"last": (2,)})}
    model = graphs.parse(text, weights)
    HalfPrecision()(model)
    assert not HalfPrecision()(model).modified
    kinds = types(model)
    assert (kinds["Where"], kinds["Max"], kinds["Add"]) == ("FLOAT", "FLOAT", "FLOAT16")
    rows = graphs.run(model, {"ids": np.array([[0, 1]], dtype=np.int64)})["y"]
    assert np.isfinite(rows).all()
    assert (rows[0, 0] < -60000).all()


def test_the_statistics_of_a_norm_are_float32() -> None:
    text = "g (int64[B,S] ids) => (float[B,S,8] y) { e = Gather(w, ids)  y = LayerNormalization <stash_type = 16> (e, gamma, beta) }"
    model = graphs.parse(text, WEIGHTS)
    HalfPrecision()(model)
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    assert node.attributes["stash_type"].as_int() == 1
    assert node.outputs[0].dtype == ir.DataType.FLOAT16


@pytest.mark.parametrize("value", [65520.0, -1e30, np.inf, np.nan], ids=str)
def test_a_weight_beyond_float16_is_an_error(value: float) -> None:
    weight = WEIGHTS["w"].copy()
    weight[3, 4] = value
    model = graphs.parse("g (int64[B,S] ids) => (float[B,S,8] y) { y = Gather(layer_weight, ids) }", {"layer_weight": weight})
    with pytest.raises(GraphError, match=r"^fp16 cannot hold layer_weight: its largest number is .*, float16 ends at 65504; export fp32$"):
        HalfPrecision()(model)


def test_tiny_weights_keep_what_float16_has_of_them() -> None:
    tiny = np.array([5e-5, 3e-6, 1e-9, 0.0], dtype=np.float32)
    halves = half(tiny, "tiny")
    assert np.abs(halves.astype(np.float64) - tiny).max() <= 3e-8
    assert halves[1] != 0


def test_integers_alone_are_nothing_to_do() -> None:
    text = "g (int64[B,S] ids) => (int64[B,S] y) { y = Add(ids, ids) }"
    assert graphs.fires(HalfPrecision, graphs.parse(text), tolerance=0) == 0


def test_it_says_beforehand_what_it_will_compute_in_float16() -> None:
    model = attention()
    as_integers(model)
    names = {value.name for value in computed_in_float16(model)}
    assert {"pq", "fq", "s", "c"} <= names
    assert not {"z", "m", "weights", "mask"} & names
    HalfPrecision()(model)
    assert {node.outputs[0].dtype for node in model.graph if node.outputs[0].name in names} == {ir.DataType.FLOAT16}
