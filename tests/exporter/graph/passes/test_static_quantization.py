"""Products over all tokens with fixed scales."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common
from quantization import input_scales, nearest_weights, quantize

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.static_quantization import StaticQuantization
from cls_exporter.graph.passes.token_rows import TokenRows

WEIGHTS = graphs.random_weights(E=(2, 8), W=(8, 8), b=(8,), V=(8, 4))


def rows(body: str, output: str = "float[B,S,8] y") -> ir.Model:
    """A graph after `TokenRows`."""
    text = f"g (int64[B,S] input_ids) => ({output}) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}"
    model = graphs.parse(text, WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def test_a_product_reads_quantized_values_and_gives_nearly_the_same() -> None:
    model = rows("p = MatMul(x, W)  y = Add(p, b)")
    scales, weights = input_scales(model), nearest_weights(model)
    assert graphs.fires(lambda: StaticQuantization(scales, weights), model, tolerance=0.25) == 1
    found = graphs.operators(model)
    assert found.count("QuantizeLinear") == 1
    assert found.count("DequantizeLinear") == 3  # the input, the weight, the bias
    stored = {str(name): value.dtype for name, value in model.graph.initializers.items()}
    assert stored["W.int8"] == ir.DataType.INT8
    assert stored["b.int32"] == ir.DataType.INT32


def test_products_that_read_the_same_value_share_its_quantizer() -> None:
    model = rows("p = MatMul(x, W)  q = MatMul(x, V)  y = Identity(p)  z = Identity(q)", "float[B,S,8] y, float[B,S,4] z")
    scales, weights = input_scales(model), nearest_weights(model)
    assert graphs.fires(lambda: StaticQuantization(scales, weights), model, tolerance=0.25) == 2
    assert graphs.operators(model).count("QuantizeLinear") == 1


def test_weights_and_scales_are_stored_as_they_were_given() -> None:
    model = rows("y = MatMul(x, W)")
    scales, weights = input_scales(model), nearest_weights(model)
    StaticQuantization(scales, weights)(model)
    stored = {str(name): value.const_value.numpy() for name, value in model.graph.initializers.items() if value.const_value is not None}
    assert np.array_equal(stored["W.int8"], weights["W"].integers)
    assert np.array_equal(stored["W.scale"], weights["W"].scales)
    ((name, scale),) = scales.items()
    assert (stored[f"{name}.scale"], stored[f"{name}.zero_point"]) == (scale.scale, scale.zero_point)


def test_the_scale_is_fixed_whatever_the_batch() -> None:
    """The same token gives the same numbers beside neighbours with other magnitudes, but for the order of a float sum."""
    model = rows("y = MatMul(x, W)")
    quantize(model)
    alone = graphs.run(model, {"input_ids": np.array([[1]], dtype=np.int64)})["y"]
    together = graphs.run(model, {"input_ids": np.array([[0, 1, 0], [1, 1, 1]], dtype=np.int64)})["y"]
    np.testing.assert_allclose(together[0, 1], alone[0, 0], atol=1e-5)
    np.testing.assert_allclose(together[1, 2], alone[0, 0], atol=1e-5)


def test_an_input_that_was_not_calibrated_is_an_error() -> None:
    model = rows("y = MatMul(x, W)")
    ((name, _),) = input_scales(model).items()
    with pytest.raises(GraphError, match=f"{name} was not calibrated"):
        StaticQuantization({}, nearest_weights(model))(model)


def test_a_weight_that_was_not_rounded_is_an_error() -> None:
    model = rows("y = MatMul(x, W)")
    with pytest.raises(GraphError, match="W was not calibrated"):
        StaticQuantization(input_scales(model), {})(model)


def test_a_graph_without_products_over_tokens_stays_as_it_is() -> None:
    assert graphs.fires(lambda: StaticQuantization({}, {}), rows("y = Tanh(x)")) == 0
