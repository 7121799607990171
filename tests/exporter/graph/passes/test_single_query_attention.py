from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.single_query_attention import SingleQueryAttention

# Hidden x [B, S, 6], one query q [B, 2, 1, 4]: A 2 heads of D 4.
WEIGHTS = graphs.random_weights(wk=(6, 8), bk=(8,), wv=(6, 8), bv=(8,), row=(1, 2, 1, 1), half=())
KEYS = "pk = MatMul(x, wk)  fk = Add(pk, bk)  hk = Reshape(fk, heads)  {swap}"
ONE_SWAP = "k = Transpose <perm = [0, 2, 3, 1]> (hk)"
TWO_SWAPS = "tk = Transpose <perm = [0, 2, 1, 3]> (hk)  k = Transpose <perm = [0, 1, 3, 2]> (tk)"
VALUES = "pv = MatMul(x, wv)  fv = Add(pv, bv)  hv = Reshape(fv, heads)  v = Transpose <perm = [0, 2, 1, 3]> (hv)"
SCORES, WEIGHED, CONTEXT = "s = MatMul(q, k)", "z = Mul(s, half)  m = Add(z, bias)  p = Softmax <axis = -1> (m)", "y = MatMul(p, v)"
INPUTS = "float[B,S,6] x, float[B,2,1,4] q, float[B,1,1,S] bias"
LOWEST = float(np.finfo(np.float32).min)


def attention(
    *,
    keys: str = KEYS.format(swap=ONE_SWAP),
    values: str = VALUES,
    scores: str = SCORES,
    weighed: str = WEIGHED,
    context: str = CONTEXT,
    inputs: str = INPUTS,
    outputs: str = "float[B,2,1,4] y",
    heads: tuple[int, ...] = (0, 0, 2, 4),
    fill: float = LOWEST,
) -> ir.Model:
    text = f"g ({inputs}) => ({outputs}) {{ {keys}  {values}  {scores}  {weighed}  {context} }}"
    return graphs.parse(text, {**WEIGHTS, "fill": np.array(fill, dtype=np.float32), **graphs.integers({"heads": heads})})


def has_projection(model: ir.Model, name: str) -> bool:
    """Whether the weights are still multiplied with every row."""
    return any(node.op_type == "MatMul" and node.inputs[1] is not None and node.inputs[1].name == name for node in model.graph)


@pytest.mark.parametrize("swap", [ONE_SWAP, TWO_SWAPS], ids=["one transpose", "two transposes"])
def test_keys_and_values_are_never_computed_for_all_rows(swap: str) -> None:
    model = attention(keys=KEYS.format(swap=swap))
    assert graphs.fires(SingleQueryAttention, model, tolerance=3e-5) == 2
    graphs.operators(model)
    assert not has_projection(model, "wk")
    assert not has_projection(model, "wv")


def test_without_biases() -> None:
    model = attention(
        keys="pk = MatMul(x, wk)  hk = Reshape(pk, heads)  " + ONE_SWAP,
        values="pv = MatMul(x, wv)  hv = Reshape(pv, heads)  v = Transpose <perm = [0, 2, 1, 3]> (hv)",
    )
    assert graphs.fires(SingleQueryAttention, model, tolerance=3e-5) == 2


def test_the_key_bias_cancels() -> None:
    """Dropped, not computed: the graph has no constant with its numbers any more."""
    model = attention()
    SingleQueryAttention()(model)
    graphs.operators(model)
    assert "bk" not in {value.name for node in model.graph for value in node.inputs if value is not None}


@pytest.mark.parametrize(
    "weighed",
    [
        "m = Add(bias, s)  p = Softmax <axis = -1> (m)",
        "z = Div(s, half)  p = Softmax <axis = 3> (z)",
        "z = Mul(s, row)  p = Softmax <axis = -1> (z)",
        "c = Cast <to = 9> (bias)  z = Where(c, s, fill)  p = Softmax <axis = -1> (z)",
        "c = Cast <to = 9> (bias)  z = Where(c, fill, s)  p = Softmax <axis = -1> (z)",
    ],
    ids=["bias", "divided", "scale by head", "masked", "masked the other way"],
)
def test_what_may_stand_between_scores_and_softmax(weighed: str) -> None:
    assert graphs.fires(SingleQueryAttention, attention(weighed=weighed), tolerance=3e-5) == 2


@pytest.mark.parametrize(
    "weighed",
    [
        "z = Mul(s, bias)  p = Softmax <axis = -1> (z)",
        "z = Div(half, s)  p = Softmax <axis = -1> (z)",
        "z = Tanh(s)  p = Softmax <axis = -1> (z)",
        "z = Mul(s, s)  p = Softmax <axis = -1> (z)",
        "p = Softmax <axis = 1> (s)",
        "p = Sigmoid(s)",
    ],
    ids=["scale by key", "divisor", "tanh", "square", "softmax over heads", "no softmax"],
)
def test_where_the_key_bias_would_not_cancel_keys_stay(weighed: str) -> None:
    model = attention(weighed=weighed, context="y = MatMul(p, v)")
    assert graphs.fires(SingleQueryAttention, model, tolerance=3e-5) == (1 if "axis = -1" in weighed else 0)
    assert has_projection(model, "wk")


def test_a_mask_that_fills_with_a_number_that_counts_keeps_the_keys() -> None:
    weighed = "c = Cast <to = 9> (bias)  z = Where(c, s, fill)  p = Softmax <axis = -1> (z)"
    model = attention(weighed=weighed, fill=-1.0)
    assert graphs.fires(SingleQueryAttention, model, tolerance=3e-5) == 1
    assert has_projection(model, "wk")


def test_two_queries_keep_everything() -> None:
    model = attention(inputs=INPUTS.replace("[B,2,1,4] q", "[B,2,3,4] q"), outputs="float[B,2,3,4] y")
    assert graphs.fires(SingleQueryAttention, model) == 0


def test_rotated_keys_keep_their_projection_and_values_do_not() -> None:
    model = attention(
        keys="pk = MatMul(x, wk)  fk = Add(pk, bk)  hk = Reshape(fk, heads)  rk = Sin(hk)  k = Transpose <perm = [0, 2, 3, 1]> (rk)"
    )
    assert graphs.fires(SingleQueryAttention, model, tolerance=3e-5) == 1
    graphs.operators(model)
    assert has_projection(model, "wk")
    assert not has_projection(model, "wv")


def test_keys_and_values_that_are_read_elsewhere_stay() -> None:
    model = attention(context="y = MatMul(p, v)  a = Neg(fk)  b = Neg(hv)", outputs="float[B,2,1,4] y, float[B,S,8] a, float[B,S,2,4] b")
    assert graphs.fires(SingleQueryAttention, model) == 0


def test_shared_keys_for_all_heads_stay() -> None:
    """Multi-query attention: one head of keys, broadcast over the heads of the query."""
    model = attention(inputs=INPUTS.replace("[B,2,1,4] q", "[B,2,1,8] q"), outputs="float[B,2,1,8] y", heads=(0, 0, 1, 8))
    assert graphs.fires(SingleQueryAttention, model) == 0


def test_a_projection_that_is_not_constant_stays() -> None:
    model = attention(inputs=INPUTS + ", float[6,8] wk, float[6,8] wv")
    assert graphs.fires(SingleQueryAttention, model) == 0
