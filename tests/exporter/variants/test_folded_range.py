"""The bound of what folding an attention's biases makes larger: it holds, and it says nothing where it knows nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from attention_graphs import CONTEXT, WEIGHTS, attention
from checkpoints import families
from exports import ExportStore

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.graph.families import FAMILIES, form_of
from cls_exporter.graph.passes.attention_bias_folding import AttentionBiasFolding
from cls_exporter.graph.passes.attention_scale import AttentionScale
from cls_exporter.graph.passes.half_precision import computed_in_float16
from cls_exporter.graph.pipeline import apply_pass, compile_graph
from cls_exporter.variants.folded_range import _of_product, bound_when_folded
from cls_exporter.variants.half_range import check_range

TEXTS = ("a cat sat", "hello world the dog runs fast")
PACKED = [item for item in families(always=("bert",)) if FAMILIES[getattr(item, "values", (item,))[0]].packed]
OUTPUT = CONTEXT.replace("y =", "r =") + "  o = MatMul(r, wo)  y = Add(o, bo)"


@pytest.mark.parametrize("model_type", PACKED)
def test_it_bounds_what_is_measured(model_type: str, store: ExportStore) -> None:
    checkpoint = load_checkpoint(str(store.checkpoint(model_type, "encoder")))
    compiled = compile_graph(store.trace(checkpoint), form=form_of(checkpoint), layout="standard")
    tables = [f"encoder.{name}" for name in checkpoint.architecture.computed]

    def measured(model: ir.Model) -> float:
        return check_range(model, computed_in_float16(model, tables=tables), checkpoint=checkpoint, texts=TEXTS)

    padded, whole = compiled.model.clone(), compiled.whole.clone()
    apply_pass(AttentionScale(), padded)
    apply_pass(AttentionScale(), whole)
    largest = measured(padded)
    bound = bound_when_folded(whole, largest=largest, tables=tables)
    apply_pass(AttentionBiasFolding(), whole)
    assert largest <= bound < 1000 * largest
    assert measured(whole) <= bound


def with_hidden_states(context: str = OUTPUT, **parts: str) -> ir.Model:
    """An attention whose hidden states are computed in float16 too: of an input's nothing was measured."""
    model = attention(scaled="", terms="m = Add(s, mask)", context=context, **parts)
    given = model.graph.inputs[0]
    uses = list(given.uses())
    node = ir.node("Relu", [given])
    node.outputs[0].shape, node.outputs[0].type = given.shape, given.type
    model.graph.insert_before(model.graph[0], node)
    for use in uses:
        use.node.replace_input_with(use.idx, node.outputs[0])
    return model


def test_it_is_the_largest_of_keys_values_outputs_and_scores() -> None:
    weights = {name: array.astype(np.float64) for name, array in WEIGHTS.items()}
    keys, values = (3.0 * np.abs(weights[name]).sum(0).max() for name in ("wk", "wv"))
    outputs = 3.0 + np.abs(weights["bv"] @ weights["wo"]).max()
    scores = 3.0 * (1 + np.abs(weights["bk"].reshape(2, 4)).sum(1).max())
    assert bound_when_folded(with_hidden_states(), largest=3.0, tables=()) == pytest.approx(max(keys, values, outputs, scores))


@pytest.mark.parametrize("largest", [100.0, 0.01])
def test_what_a_norm_gives_has_a_length_that_bounds_its_products(largest: float) -> None:
    parts = {"scale": np.linspace(-2, 2, 8), "shift": np.linspace(0, 1, 8)}
    parts = {name: array.astype(np.float32) for name, array in parts.items()}
    model = graphs.parse("g (float[B,S,8] x, float[8,8] w) => (float[B,S,8] y) { y = LayerNormalization(x, scale, shift) }", parts)
    weight = WEIGHTS["wk"].astype(np.float64)
    bound = _of_product(model.graph.outputs[0], weight, largest)
    random = np.random.default_rng(0).standard_normal((10_000, 8)).astype(np.float32) ** 3
    (rows,) = graphs.run(model, {"x": random[None], "w": WEIGHTS["wk"]}).values()
    anywhere = largest * np.abs(weight).sum(0).max()
    found = np.abs(rows @ weight).max()
    assert bound == pytest.approx(anywhere) if largest < 1 else found <= bound < min(anywhere, 1.5 * found)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: attention(scaled="", terms="m = Add(s, mask)", context=OUTPUT), id="hidden states that were not measured"),
        pytest.param(lambda: with_hidden_states(CONTEXT), id="no product of the output"),
        pytest.param(
            lambda: with_hidden_states(keys="kr = Relu(hk)  k = Transpose <perm = [0, 2, 3, 1]> (kr)"), id="keys are not a product"
        ),
        pytest.param(lambda: with_hidden_states(softmax="weights = Softmax <axis = 1> (m)"), id="no attention"),
    ],
)
def test_it_is_infinite_where_it_knows_nothing(model: Callable[[], ir.Model]) -> None:
    assert bound_when_folded(model(), largest=3.0, tables=()) == math.inf


def test_without_an_attention_nothing_becomes_larger() -> None:
    model = graphs.parse("g (float[B,S,8] x) => (float[B,S,8] y) { y = Relu(x) }")
    assert bound_when_folded(model, largest=3.0, tables=()) == 3.0
