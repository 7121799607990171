"""The scale of attention's scores, moved in front of the product."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import attention

from cls_exporter.graph.passes.attention_scale import AttentionScale


def scaled_products(model: ir.Model) -> list[str]:
    """The Mul and Div that are left."""
    return [name for name in graphs.operators(model) if name in ("Mul", "Div")]


@pytest.mark.parametrize(
    "scaled",
    ["z = Mul(s, scale)", "z = Mul(scale, s)", "z = Div(s, root)", "u = Identity(s)  z = Mul(u, scale)"],
    ids=["times", "times, the other way", "divided", "with something between"],
)
def test_it_becomes_a_part_of_the_querys_projection(scaled: str) -> None:
    model = attention(scaled=scaled)
    assert graphs.fires(AttentionScale, model) == 1
    assert scaled_products(model) == []
    weights = {value.name: value.const_value.numpy() for node in model.graph for value in node.inputs if value and value.const_value}
    np.testing.assert_array_equal(weights["wq.scaled"], attention().graph.initializers["wq"].const_value.numpy() * np.float32(0.5))  # type: ignore[union-attr]


def test_scores_that_would_overflow_do_not() -> None:
    """The largest number of the product is a half of what it was."""
    before, after = attention(outputs="float[B,2,S,S] s"), attention(outputs="float[B,S,8] y, float[B,2,S,S] s")
    after.graph.outputs.pop()
    AttentionScale()(after)
    product = next(node for node in after.graph if node.op_type == "MatMul" and node.outputs[0].name == "s")
    product.outputs[0].name = "s"
    after.graph.outputs.append(product.outputs[0])
    feed = graphs.feed_for(before, batch=2, length=5)
    np.testing.assert_allclose(graphs.run(after, feed)["s"], graphs.run(before, feed)["s"] / 2, rtol=1e-5)


def test_a_query_that_is_read_elsewhere_gets_an_operator() -> None:
    model = attention(outputs="float[B,S,8] y, float[B,2,S,4] q")
    assert graphs.fires(AttentionScale, model) == 1
    assert scaled_products(model) == ["Mul"]


def test_elements_may_be_picked_between() -> None:
    """Disentangled attention picks a score for each distance, and scales then."""
    text = """g (float[B,S,4] q, float[B,8,4] r, int64[B,S,3] places) => (float[B,S,3] z) {
        t = Transpose <perm = [0, 2, 1]> (r)  s = MatMul(q, t)  e = GatherElements <axis = -1> (s, places)  z = Mul(e, scale) }"""
    model = graphs.parse(text, {"scale": np.array(0.5, dtype=np.float32)})
    assert graphs.fires(AttentionScale, model) == 1
    assert graphs.operators(model) == ["Transpose", "Mul", "MatMul", "GatherElements"]


def test_layers_that_share_weights_share_the_scaled_ones() -> None:
    text = """g (float[B,S,8] x) => (float[B,S,S] z, float[B,S,S] w) {
        t = Transpose <perm = [0, 2, 1]> (x)
        p = MatMul(x, wq)  s = MatMul(p, t)  z = Mul(s, scale)
        x2 = Relu(x)  p2 = MatMul(x2, wq)  s2 = MatMul(p2, t)  w = Mul(s2, scale) }"""
    model = graphs.parse(text, {**graphs.random_weights(wq=(8, 8)), "scale": np.array(0.5, dtype=np.float32)})
    assert graphs.fires(AttentionScale, model) == 2
    assert scaled_products(model) == []
    assert len({id(node.inputs[1]) for node in model.graph if node.inputs[1:] and node.inputs[1].name == "wq.scaled"}) == 1


@pytest.mark.parametrize(
    "model",
    [
        lambda: attention(scaled="z = Mul(s, one)"),
        lambda: attention(scaled="z = Mul(s, table)"),
        lambda: attention(scaled="z = Mul(s, scale)", outputs="float[B,S,8] y, float[B,2,S,S] s"),
        lambda: attention(scaled="u = Relu(s)  z = Mul(u, scale)"),
        lambda: graphs.parse("g (float[B,S,8] x) => (float[B,S,8] z) { p = MatMul(x, wq)  z = Mul(p, scale) }", SINGLE),
        lambda: graphs.parse("g (float[B,S,8] x) => (float[B,S,8] z) { p = MatMul(x, wq)  z = Div(scale, p) }", SINGLE),
    ],
    ids=["not smaller", "a scale for each head", "scores read elsewhere", "not linear between", "a projection", "divided by scores"],
)
def test_what_stays(model) -> None:  # type: ignore[no-untyped-def]
    assert graphs.fires(AttentionScale, model(), tolerance=0) == 0


SINGLE = {**graphs.random_weights(wq=(8, 8)), "scale": np.array(0.5, dtype=np.float32)}


SCALED_BEFORE = """g (float[B,S,8] x, float[B,S,8] k) => (float[B,S,S] z) {{
    m = MatMul(x, wq)  a = Add(m, bq)  {scaled}  t = Transpose <perm = [0, 2, 1]> (k)  z = MatMul({order}) }}"""


def scaled_before(scaled: str, *, order: str = "q, t") -> ir.Model:
    weights = graphs.random_weights(wq=(8, 8), bq=(8,)) | {"root": np.array(2, dtype=np.float32), "scale": np.array(0.5, dtype=np.float32)}
    return graphs.parse(SCALED_BEFORE.format(scaled=scaled, order=order), weights)


@pytest.mark.parametrize(
    "scaled",
    ["q = Div(a, root)", "q = Mul(scale, a)", "h = Transpose <perm = [0, 1, 2]> (a)  p = Div(h, root)  q = Identity(p)"],
    ids=["divided", "times", "with the layout changed on both sides"],
)
def test_a_query_that_is_scaled_before_its_product_becomes_a_part_of_its_projection(scaled: str) -> None:
    model = scaled_before(scaled)
    assert graphs.fires(AttentionScale, model) == 1
    assert scaled_products(model) == []


@pytest.mark.parametrize(
    ("scaled", "order"),
    [("q = Mul(a, root)", "q, t"), ("q = Div(a, root)", "t, q"), ("p = Div(a, root)  q = Add(p, a)", "q, t")],
    ids=["larger", "not the query", "read elsewhere"],
)
def test_others_that_are_scaled_before_a_product_stay(scaled: str, order: str) -> None:
    text = SCALED_BEFORE.format(scaled=scaled, order=order)
    if order == "t, q":  # [B, 8, S] and [B, S, 8]
        text = text.replace("float[B,S,S] z", "float[B,8,8] z")
    weights = graphs.random_weights(wq=(8, 8), bq=(8,)) | {"root": np.array(2, dtype=np.float32)}
    assert graphs.fires(AttentionScale, graphs.parse(text, weights), tolerance=0) == 0
