"""Attention over all tokens as one operator of ONNX Runtime's."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import KEYS, MASK, SWAP, attention

from cls_exporter.graph.passes.attention_fusion import AttentionFusion

UNSCALED = "z = Identity(s)"


def fused(model: ir.Model) -> ir.Node:
    graphs.operators(model)
    return next(node for node in model.graph if node.op_type == "MultiHeadAttention")


def input_names(node: ir.Node) -> list[str | None]:
    return [None if value is None else value.name for value in node.inputs]


@pytest.mark.parametrize(
    "keys",
    [KEYS, f"{SWAP.format('kk').replace('hkk', 'hk')}  k = Transpose <perm = [0, 1, 3, 2]> (kk)"],
    ids=["one transpose", "two"],
)
def test_it_reads_the_projections_and_masks_by_itself(keys: str) -> None:
    model = attention(keys=keys, scaled="", terms="m = Add(s, mask)")
    assert graphs.fires(AttentionFusion, model) == 1
    node = fused(model)
    assert input_names(node)[:4] == ["fq", "fk", "fv", None]
    assert (node.attributes["num_heads"].as_int(), node.attributes["scale"].as_float()) == (2, 1.0)
    assert node.attributes["mask_filter_value"].as_float() == np.finfo(np.float32).min
    mask = node.inputs[4]
    assert mask is not None
    assert (mask.dtype, mask.shape) == (ir.DataType.INT32, ir.Shape(["batch_size", "sequence_length"]))
    assert len(node.inputs) == 5
    assert "Softmax" not in graphs.operators(model)
    assert model.graph.opset_imports["com.microsoft"] == 1


def test_a_row_that_is_all_padding_is_what_it_was() -> None:
    model = attention(scaled="", terms="m = Add(s, mask)")
    feed = graphs.feed_for(model, batch=3, length=5)
    feed["attention_mask"][1] = 0
    before = graphs.run(model, feed)["y"]
    AttentionFusion()(model)
    np.testing.assert_allclose(graphs.run(model, feed)["y"], before, rtol=0, atol=1e-5)


def test_other_terms_are_its_bias() -> None:
    model = attention(
        scaled="",
        inputs="float[B,S,8] x, int64[B,S] attention_mask, float[1,2,S,S] near, float[B,1,S,S] far",
        terms="n = Add(s, near)  o = Add(n, far)  m = Add(o, mask)",
    )
    assert graphs.fires(AttentionFusion, model) == 1
    node = fused(model)
    assert node.inputs[4] is not None
    assert node.inputs[5] is not None
    assert node.inputs[5].shape == ir.Shape(["batch_size", 2, "sequence_length", "sequence_length"])


def test_without_a_mask_it_has_none() -> None:
    model = attention(scaled="", mask="", terms="", softmax="weights = Softmax <axis = -1> (s)")
    assert graphs.fires(AttentionFusion, model) == 1
    assert len(fused(model).inputs) == 3


def test_rotated_heads_are_moved_back() -> None:
    """What has been computed with the heads apart is not what was split from [B, S, A*D]."""
    rotated = "r = Mul(q, table)  rk = Transpose <perm = [0, 2, 1, 3]> (hk)  nk = Neg(rk)  k = Transpose <perm = [0, 1, 3, 2]> (nk)"
    model = attention(keys=rotated, scores="s = MatMul(r, k)", scaled="", terms="m = Add(s, mask)")
    assert graphs.fires(AttentionFusion, model) == 1
    assert input_names(fused(model))[2] == "fv"
    assert graphs.operators(model).count("Transpose") == 4  # two to the heads, two back


def test_two_layers_share_one_mask() -> None:
    model = attention(scaled="", terms="m = Add(s, mask)  m2 = Add(mask, s2)", scores="s = MatMul(q, k)  s2 = MatMul(v, k)", context=TWO)
    assert graphs.fires(AttentionFusion, model) == 2
    masks = {id(node.inputs[4]) for node in model.graph if node.op_type == "MultiHeadAttention"}
    assert len(masks) == 1


TWO = """c = MatMul(weights, v)  t = Transpose <perm = [0, 2, 1, 3]> (c)  y1 = Reshape(t, rows)
    w2 = Softmax <axis = -1> (m2)  c2 = MatMul(w2, v)  t2 = Transpose <perm = [0, 2, 1, 3]> (c2)  y2 = Reshape(t2, rows)  y = Add(y1, y2)"""
ONE_QUERY = """g (float[B,2,1,4] q, float[B,2,S,4] x) => (float[B,1,8] y) {
    k = Transpose <perm = [0, 1, 3, 2]> (x)  s = MatMul(q, k)  w = Softmax <axis = -1> (s)  c = MatMul(w, x)
    t = Transpose <perm = [0, 2, 1, 3]> (c)  y = Reshape(t, rows) }"""


@pytest.mark.parametrize(
    "model",
    [
        lambda: attention(terms="m = Add(z, mask)"),
        lambda: attention(scaled="", terms="m = Add(s, mask)", softmax="weights = Softmax <axis = 2> (m)"),
        lambda: attention(scaled="", terms="m = Add(s, mask)", outputs="float[B,S,8] y, float[B,2,S,S] s"),
        lambda: attention(scaled="", terms="m = Add(s, mask)", outputs="float[B,S,8] y, float[B,2,S,S] weights"),
        lambda: attention(scaled="", terms="m = Add(s, row)", mask="", inputs="float[B,S,8] x, float[B,1,1,S] row"),
        lambda: attention(scaled="", terms="m = Add(s, mask)", mask=MASK.replace("unmasked, masked", "one, masked")),
        lambda: attention(scaled="", terms="m = Add(s, mask)", context="y = MatMul(weights, v)", outputs="float[B,2,S,4] y"),
        lambda: graphs.parse(ONE_QUERY, graphs.integers({"rows": (0, 1, 8)})),
    ],
    ids=["scaled", "over queries", "scores read", "weights read", "a bias for one row", "another mask", "heads apart", "one query"],
)
def test_what_stays(model) -> None:  # type: ignore[no-untyped-def]
    assert graphs.fires(AttentionFusion, model(), tolerance=0) == 0
