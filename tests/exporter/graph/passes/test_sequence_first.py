"""What is computed for each token alone, with the sequence as the first axis."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from checkpoints import families
from exports import ExportStore, every_output

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.graph.families import form_of
from cls_exporter.graph.passes.rewriting import known_dims, permutation
from cls_exporter.graph.passes.sequence_first import SequenceFirst
from cls_exporter.graph.pipeline import apply_pass, clean, compile_graph

WEIGHTS = graphs.random_weights(E=(2, 8), P=(1, 1, 8), W=(8, 8), V=(8, 8), b=(8,), g=(8,), n=(8,), d=(1, 1, 2, 4)) | graphs.integers(
    {"heads": [0, 0, 2, 4], "joined": [0, 0, 8], "row_0": [0], "row_1": [1], "axis_1": [1], "axis_2": [2]}
)
SPLIT = "p = MatMul(x, W)  a = Add(p, b)  h = Reshape(a, heads)"


def tokens(body: str, output: str = "float[B,2,S,4] y", inputs: str = "") -> ir.Model:
    text = f"g (int64[B,S] input_ids{inputs}) => ({output}) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}"
    return graphs.parse(text, WEIGHTS)


def order_of(model: ir.Model, op_type: str) -> list[tuple[int | str, ...]]:
    """The first two axes of what each operator of a kind makes."""
    return [known_dims(node.outputs[0])[:2] for node in model.graph if node.op_type == op_type]


def test_heads_are_split_from_sequences_that_come_first() -> None:
    model = tokens(f"{SPLIT}  y = Transpose<perm = [0, 2, 1, 3]>(h)")
    assert graphs.fires(SequenceFirst, model) == 1
    graphs.operators(model)
    assert order_of(model, "MatMul") == order_of(model, "Gather") == [(graphs.SEQUENCE, graphs.BATCH)]
    assert [permutation(node) for node in model.graph if node.op_type == "Transpose"] == [(1, 0), (1, 2, 0, 3)]


def test_the_selection_of_row_0_takes_the_first_rows() -> None:
    model = tokens("l = LayerNormalization<axis = -1>(x, g, n)  y = Slice(l, row_0, row_1, axis_1)", "float[B,1,8] y")
    assert graphs.fires(SequenceFirst, model) == 1
    graphs.operators(model)
    assert [known_dims(node.outputs[0]) for node in model.graph if node.op_type == "Slice"] == [(1, graphs.BATCH, 8)]


def test_a_sum_over_tokens_adds_up_the_first_axis() -> None:
    mean = "f = Cast<to = 1>(attention_mask)  c = Unsqueeze(f, axis_2)  w = Mul(l, c)  y = ReduceSum<keepdims = 0>(w, axis_1)"
    model = tokens(f"l = LayerNormalization<axis = -1>(x, g, n)  {mean}", "float[B,8] y", ", int64[B,S] attention_mask")
    assert graphs.fires(SequenceFirst, model) == 1
    graphs.operators(model)
    assert order_of(model, "Mul") == order_of(model, "LayerNormalization") == [(graphs.SEQUENCE, graphs.BATCH)]


@pytest.mark.parametrize("sum_of", ["ReduceSum(l, axis_1)", "ReduceSum<keepdims = 0>(l, axis_2)", "ReduceMean<keepdims = 0>(l, axis_1)"])
def test_what_is_no_sum_over_tokens_stays(sum_of: str) -> None:
    shape = "float[B,1,8] y" if "keepdims" not in sum_of else "float[B,S] y" if "axis_2" in sum_of else "float[B,8] y"
    assert graphs.fires(SequenceFirst, tokens(f"l = LayerNormalization<axis = -1>(x, g, n)  y = {sum_of}", shape)) == 0


def test_an_output_of_all_tokens_is_made_of_sequences_that_come_first() -> None:
    """So the last layer's products run over the same rows as all others."""
    model = tokens(f"{SPLIT}  t = Transpose<perm = [0, 2, 1, 3]>(h)  z = Add(a, x)", "float[B,2,S,4] t, float[B,S,8] z")
    assert graphs.fires(SequenceFirst, model) == 1
    graphs.operators(model)
    assert set(order_of(model, "Add")) == {(graphs.SEQUENCE, graphs.BATCH)}
    assert [str(output.name) for output in model.graph.outputs] == ["t", "z"]


def test_a_context_goes_back_to_tokens_with_the_sequence_first() -> None:
    attention = "q = Transpose<perm = [0, 2, 1, 3]>(h)  k = Transpose<perm = [0, 2, 3, 1]>(h)  s = MatMul(q, k)  m = Softmax(s)"
    context = "c = MatMul(m, q)  t = Transpose<perm = [0, 2, 1, 3]>(c)  j = Reshape(t, joined)  o = MatMul(j, V)  r = Add(o, x)"
    model = tokens(f"{SPLIT}  {attention}  {context}  z = Reshape(r, heads)  y = Transpose<perm = [0, 2, 1, 3]>(z)")
    assert graphs.fires(SequenceFirst, model, tolerance=1e-4) == 3
    graphs.operators(model)
    perms = [permutation(node) for node in model.graph if node.op_type == "Transpose"]
    assert sorted(perms) == [(1, 0), (1, 2, 0, 3), (1, 2, 0, 3), (1, 2, 3, 0), (2, 0, 1, 3)]


@pytest.mark.parametrize(
    "addend",
    ["P", "b", "Q", "M"],
    ids=["for all positions", "a bias", "for each position", "for each token"],
)
def test_what_is_added_follows(addend: str) -> None:
    inputs = {"Q": ", float[1,S,8] Q", "M": ", float[B,S,1] M"}.get(addend, "")
    model = tokens(f"e = Add(x, {addend})  h = Reshape(e, heads)  y = Transpose<perm = [0, 2, 1, 3]>(h)", inputs=inputs)
    assert graphs.fires(SequenceFirst, model) == 1


def test_who_reads_the_old_order_gets_it_back() -> None:
    body = f"{SPLIT}  y = Transpose<perm = [0, 2, 1, 3]>(h)  z = ReduceMax<keepdims = 0>(a, axis_1)"
    model = tokens(body, "float[B,2,S,4] y, float[B,8] z")
    assert graphs.fires(SequenceFirst, model) == 1
    assert graphs.operators(model).count("MatMul") == 1  # nothing is computed twice


@pytest.mark.parametrize(
    "model",
    [
        tokens("y = MatMul(x, W)", "float[B,S,8] y"),
        graphs.parse("g (float[B,S,8] x) => (float[B,8,S] y) { y = Transpose<perm = [0, 2, 1]>(x) }"),
        tokens("c = ReduceSum<keepdims = 1>(x, axis_2)  y = Transpose<perm = [0, 2, 1]>(c)", "float[B,1,S] y"),
    ],
    ids=["nothing to split", "no ids", "an operation without a rule"],
)
def test_must_not_fire(model: ir.Model) -> None:
    assert graphs.fires(SequenceFirst, model) == 0


@pytest.mark.parametrize("model_type", families(always=("bert", "mpnet", "deberta-v2", "modernbert")))
def test_every_family_gives_the_same_vectors(model_type: str, store: ExportStore) -> None:
    checkpoint = load_checkpoint(str(store.checkpoint(model_type, "classifier")), config=every_output(model_type, "classifier"))
    form = form_of(checkpoint)
    model = compile_graph(store.trace(checkpoint), form=form, layout="standard").model
    feeds = [graphs.feed_for(model, batch=batch, length=length) for batch, length in ((3, 6), (1, 1))]
    expected = [graphs.run(model, feed) for feed in feeds]
    assert apply_pass(SequenceFirst(), model) >= 3 * (form.layers - 1)
    clean(model)
    for feed, before in zip(feeds, expected, strict=True):
        after = graphs.run(model, feed)
        for name, array in before.items():
            np.testing.assert_allclose(after[name], array, rtol=0, atol=2e-6)
