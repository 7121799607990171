"""Tokens of all texts one after another: what is packed, what is not, and that the numbers are the padded graph's."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import packed_operators
import pytest
from packed_batches import batch_of, packed_feed, padded_feed

from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.padding_mask import MASKED
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.graph.passes.token_packing import TokenPacking
from cls_exporter.graph.pipeline import apply_pass
from cls_runtime.engines.base import TokenBatch

VOCABULARY, PAD = 12, 3
WEIGHTS = {
    **graphs.random_weights(words=(VOCABULARY, 8), places=(20, 8), types=(2, 8), gamma=(8,), beta=(8,)),
    **graphs.random_weights(1, wq=(8, 8), bq=(8,), wk=(8, 8), wv=(8, 8), wo=(8, 8), bo=(8,), shift=(1, 1, 8)),
    **{name: np.array(value, dtype=np.int64) for name, value in {"zero": 0, "one": 1, "two": 2, "minus": -1, "pad": PAD}.items()},
    **graphs.integers({"heads": (0, 0, 2, 4), "rows": (0, 0, 8), "axes": (1, 2), "last": (2,), "first": (1,), "buffer": range(20)}),
    "unmasked": np.array(0.0, dtype=np.float32),
    "masked": np.array(MASKED, dtype=np.float32),
}
WORDS = "w = Gather(words, input_ids)"
COUNTED = (
    "is = Equal(input_ids, pad)  not = Not(is)  n = Cast <to = 7> (not)  c = CumSum(n, one)  m = Mul(c, n)  at = Add(m, two)"
    "  p = Gather(places, at)  e = Add(w, p)"
)
LENGTH = "all = Shape <start = 1, end = 2> (input_ids)"
POSITIONS = f"{LENGTH}  end = Squeeze(all)  at = Range(zero, end, one)  p = Gather(places, at)  e = Add(w, p)"
SHIFTED = POSITIONS.replace("Gather(places, at)", "Gather(places, far)").replace("p =", "far = Add(at, two)  p =", 1)
TYPES = "t = Gather(types, token_type_ids)  e = Add(w, t)"
SAME = "whole = Shape(input_ids)  ones = Expand(one, whole)  t = Gather(types, ones)  e = Add(w, t)"
MASK = "kept = Cast <to = 9> (attention_mask)  row = Unsqueeze(kept, axes)  mask = Where(row, unmasked, masked)"
PARTS = "  ".join(
    f"{name}p = MatMul(h, w{name})  {name}h = Reshape({name}p, heads)  {name} = Transpose <perm = [0, 2, {axes}]> ({name}h)"
    for name, axes in (("q", "1, 3"), ("k", "3, 1"), ("v", "1, 3"))
)
SCORES = "s = MatMul(q, k)  z = Add(s, mask)"
CONTEXT = (
    "a = Softmax <axis = -1> (z)  x = MatMul(a, v)  y = Transpose <perm = [0, 2, 1, 3]> (x)  r = Reshape(y, rows)  o = MatMul(r, wo)"
    "  b = Add(o, bo)  sum = Add(b, h)  out = LayerNormalization <axis = 2> (sum, gamma, beta)"
)
ROW = "sentence = Gather <axis = 1> (out, zero)"
MEAN = (
    "u = Unsqueeze(attention_mask, last)  f = Cast <to = 1> (u)  g = Mul(out, f)  total = ReduceSum <keepdims = 0> (g, first)"
    "  count = ReduceSum <keepdims = 0> (f, first)  sentence = Div(total, count)"
)


def encoder(
    *,
    embeddings: str = POSITIONS,
    mask: str = MASK,
    scores: str = SCORES,
    end: str = ROW,
    outputs: str = "float[B,8] sentence",
    inputs: str = "",
    values: str = "",
) -> ir.Model:
    """A layer behind embeddings, fused as for fp16."""
    norm = "h = LayerNormalization <axis = -1> (e, gamma, beta)"
    text = "  ".join([WORDS, embeddings, norm, PARTS, mask, scores, CONTEXT, end])
    given = "int64[B,S] input_ids, int64[B,S] attention_mask, int64[B,S] token_type_ids" + inputs
    model = graphs.parse(f"g ({given}) => ({outputs}) <float[B,S,8] e{values}> {{ {text} }}", WEIGHTS)
    assert apply_pass(AttentionFusion(), model) == 1
    apply_pass(SkipLayerNormFusion(), model)
    return model


def packs(model: ir.Model, batch: TokenBatch | None = None) -> ir.Model:
    """Packs the graph, holds it to the padded one's numbers, and to what every pass promises."""
    batch = batch_of([5, 1, 7, 3], vocabulary=VOCABULARY, pad_id=PAD) if batch is None else batch
    expected = graphs.run(model, padded_feed(model, batch))
    names = [value.name for value in model.graph.outputs]
    assert apply_pass(TokenPacking(), model) == 1
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert [value.name for value in model.graph.outputs] == names
    assert {value.dtype for value in model.graph.inputs} == {ir.DataType.INT32}
    assert all(value.uses() for value in model.graph.inputs)
    found = packed_operators.run(model, packed_feed(model, batch))
    for name, array in found.items():
        mask = np.arange(batch.longest) < batch.lengths[:, None]
        wanted = expected[name][mask] if expected[name].ndim == 3 else expected[name]
        np.testing.assert_allclose(array, wanted, rtol=0, atol=1e-5, err_msg=name)
    once = ir.to_proto(model).SerializeToString(deterministic=True)
    assert apply_pass(TokenPacking(), model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == once
    return model


def inputs_of(model: ir.Model) -> list[str]:
    return [str(value.name) for value in model.graph.inputs]


def stays(model: ir.Model) -> None:
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    assert apply_pass(TokenPacking(), model) == 0
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_no_value_has_a_row_for_padding() -> None:
    model = packs(encoder())
    assert inputs_of(model) == ["input_ids", "position_ids", "cu_seqlens", "cls_rows", "token_offset"]
    assert all(len(value.shape or ()) < 3 for node in model.graph for value in node.outputs)
    assert graphs.operators(model).count("PackedMultiHeadAttention") == 1


@pytest.mark.parametrize(
    ("embeddings", "added"),
    [
        (POSITIONS, ["position_ids"]),
        (SHIFTED, ["position_ids"]),
        (COUNTED, ["position_ids"]),
        (TYPES, ["token_type_ids"]),
        (SAME, []),
    ],
    ids=["places", "places from 2 on", "places among tokens that are no padding", "types", "one type for all"],
)
def test_an_index_is_recognised_by_its_values(embeddings: str, added: list[str]) -> None:
    assert inputs_of(packs(encoder(embeddings=embeddings))) == ["input_ids", *added, "cu_seqlens", "cls_rows", "token_offset"]


@pytest.mark.parametrize("lengths", [[1], [4], [1, 1, 1], [2, 9, 2]])
def test_every_shape_of_a_batch(lengths: list[int]) -> None:
    packs(encoder(embeddings=COUNTED), batch_of(lengths, vocabulary=VOCABULARY, pad_id=PAD))


def test_a_mean_reads_rows_with_padding_between_them_and_a_mask() -> None:
    model = packs(encoder(end=MEAN))
    assert inputs_of(model)[-1] == "attention_mask"
    operators = graphs.operators(model)
    assert (operators.count("RestorePadding"), operators.count("PackedMultiHeadAttention")) == (1, 1)


def test_a_mask_that_is_computed_with_is_int64_as_it_was() -> None:
    end = MEAN.replace("Unsqueeze(attention_mask, last)", "Unsqueeze(pooled, last)").replace(
        "u =", "pooled = Equal(attention_mask, one)  u =", 1
    )
    model = encoder(end=end)
    packs(model, batch_of([5, 4], vocabulary=VOCABULARY, pad_id=PAD, unpooled=[2, 1]))
    assert graphs.operators(model).count("RestorePadding") == 1


def test_rows_of_all_tokens_are_an_output() -> None:
    model = packs(encoder(outputs="float[B,S,8] out, float[B,8] sentence"))
    assert model.graph.outputs[0].shape == ir.Shape(["tokens", 8])


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": ", float[1,2,S,S] near", "scores": "s = MatMul(q, k)  n = Add(s, near)  z = Add(n, mask)"},
        {"embeddings": POSITIONS.replace("Range(zero, end, one)", "Range(end, zero, minus)")},
        {"embeddings": "c = CumSum(input_ids, one)  p = Gather(places, c)  e = Add(w, p)"},
        {"embeddings": "e = Add(w, shift)"},
        {"end": "t = Cast <to = 1> (input_ids)  l = Unsqueeze(t, last)  g = Mul(out, l)  sentence = ReduceSum <keepdims = 0> (g, first)"},
    ],
    ids=["a bias", "places from the end", "another count", "a constant of rank 3", "ids as [B, S]"],
)
def test_anything_else_stays_as_it_is(changes: dict[str, str]) -> None:
    stays(encoder(**changes))


def test_a_mask_that_is_not_plain_is_no_attentions() -> None:
    """Such a mask is a bias, as large as the scores."""
    mask = (
        "kept = Cast <to = 9> (token_type_ids)  row = Unsqueeze(kept, axes)  far = Where(row, unmasked, masked)  mask = Expand(far, whole)"
    )
    lengths = "many = Shape <end = 1> (input_ids)  s1 = Shape <start = 1> (input_ids)  whole = Concat <axis = 0> (many, first, s1, s1)"
    model = encoder(mask=f"{lengths}  {mask}", scores="s = MatMul(q, k)  z = Add(s, mask)", values=", float[B,1,S,S] mask")
    stays(model)


def test_a_graph_without_an_attention_stays() -> None:
    text = "w = Gather(words, input_ids)  y = Gather <axis = 1> (w, zero)"
    stays(graphs.parse(f"g (int64[B,S] input_ids, int64[B,S] attention_mask) => (float[B,8] y) {{ {text} }}", WEIGHTS))
