"""A graph of batches with the integers of its twin on rows."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from quantization import quantize

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.batched_quantization import BatchedQuantization
from cls_exporter.graph.passes.smoothing import Smoothing
from cls_exporter.graph.passes.token_rows import TokenRows, token_products
from cls_exporter.variants.bias_correction import set_biases

WEIGHTS = graphs.random_weights(E=(2, 8), W=(8, 8), b=(8,), V=(8, 4), g=(8,), n=(8,))
BODIES = {
    "bias": ("p = MatMul(x, W)  y = Add(p, b)", 8),
    "no bias": ("y = MatMul(x, V)", 4),
    "read twice": ("p = MatMul(x, W)  a = Add(p, b)  h = Gelu(a)  q = MatMul(h, W)  c = Add(q, b)  y = Add(c, x)", 8),
    "normalized": ("l = LayerNormalization<axis = -1>(x, g, n)  y = MatMul(l, V)", 4),
}


def batched(kind: str) -> ir.Model:
    body, width = BODIES[kind]
    text = f"g (int64[B,S] input_ids) => (float[B,S,{width}] y) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}"
    return graphs.parse(text, WEIGHTS)


def twin_of(model: ir.Model, *, smooth: bool = True) -> ir.Model:
    twin = model.clone()
    TokenRows()(twin)
    if smooth:
        names = [str(node.inputs[0].name) for node in token_products(twin)]  # type: ignore[union-attr]
        Smoothing(dict.fromkeys(names, np.linspace(0.5, 2, 8).astype(np.float32)))(twin)
    widths = {str(node.outputs[0].name): node.inputs[1].shape[1] for node in token_products(twin)}  # type: ignore[union-attr, index]
    set_biases(twin, {name: np.full(int(width), 0.25, dtype=np.float32) for name, width in widths.items()})
    quantize(twin, largest=8)
    common.RemoveUnusedNodesPass()(twin)
    return twin


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("kind", BODIES)
def test_both_forms_give_the_same(kind: str, smooth: bool) -> None:
    model = batched(kind)
    twin = twin_of(model, smooth=smooth)
    products = len(token_products(twin))
    result = BatchedQuantization(twin)(model)
    assert result.modified
    assert graphs.operators(model).count("MatMul") == products == result.count  # type: ignore[attr-defined]
    for batch, length in graphs.SIZES:
        feed = graphs.feed_for(model, batch=batch, length=length)
        np.testing.assert_allclose(graphs.run(model, feed)["y"], graphs.run(twin, feed)["y"], rtol=0, atol=1e-4)


def test_integers_are_the_twins_and_stored_once() -> None:
    model = batched("read twice")
    twin = twin_of(model)
    BatchedQuantization(twin)(model)
    common.RemoveUnusedNodesPass()(model)
    found = {
        name: value for name, value in model.graph.initializers.items() if value.dtype == ir.DataType.INT8 and len(value.shape or ()) == 2
    }
    assert list(found) == ["W.int8"]
    expected = twin.graph.initializers["W.int8"].const_value
    stored = found["W.int8"].const_value
    assert stored is not None
    assert expected is not None
    assert np.array_equal(stored.numpy(), expected.numpy())


def test_a_second_run_finds_nothing() -> None:
    model = batched("bias")
    twin = twin_of(model)
    BatchedQuantization(twin)(model)
    with pytest.raises(GraphError, match="1 quantized products have no twin"):
        BatchedQuantization(twin)(model)


def test_a_twin_that_is_not_quantized_is_refused() -> None:
    model = batched("bias")
    twin = model.clone()
    TokenRows()(twin)
    with pytest.raises(GraphError, match="is not quantized"):
        BatchedQuantization(twin)(model)
