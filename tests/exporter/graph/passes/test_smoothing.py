"""Outlier channels move from activations into weights."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir.passes import common

from cls_exporter.graph.passes.smoothing import ChannelRange, Smoothing, smoothing_factors
from cls_exporter.graph.passes.token_rows import TokenRows, token_products

WEIGHTS = graphs.random_weights(E=(2, 8), W=(8, 8), U=(8, 8), b=(8,), V=(8, 4), g=(8,), n=(8,))
FACTORS = np.linspace(0.5, 4.0, 8).astype(np.float32)


def rows(body: str, output: str = "float[B,S,4] y") -> ir.Model:
    """A graph after `TokenRows`."""
    text = f"g (int64[B,S] input_ids) => ({output}) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}"
    model = graphs.parse(text, WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    return model


def factors_of(model: ir.Model) -> dict[str, np.ndarray]:
    """FACTORS for the input of the last product."""
    value = token_products(model)[-1].inputs[0]
    assert value is not None
    return {str(value.name): FACTORS}


def test_a_value_that_others_read_is_multiplied_for_the_products_alone() -> None:
    model = rows("p = MatMul(x, W)  h = Gelu(p)  q = MatMul(h, U)  r = Add(q, h)  y = MatMul(r, V)")
    gelu = next(node for node in model.graph if node.op_type == "Gelu")
    factors = {str(gelu.outputs[0].name): FACTORS}
    assert graphs.fires(lambda: Smoothing(factors), model, tolerance=1e-3) == 1
    assert "Mul" in graphs.operators(model)


def test_a_normalization_that_only_products_read_takes_the_factors() -> None:
    model = rows("p = MatMul(x, W)  m = LayerNormalization<axis = -1>(p, g, n)  y = MatMul(m, V)")
    feed = graphs.feed_for(model, batch=2, length=5)
    expected = graphs.run(model, feed)["y"]
    assert Smoothing(factors_of(model))(model).modified
    assert "Mul" not in graphs.operators(model)
    scale = model.graph.initializers["g"].const_value
    assert scale is not None
    np.testing.assert_allclose(scale.numpy(), WEIGHTS["g"] / FACTORS, rtol=1e-6)
    np.testing.assert_allclose(graphs.run(model, feed)["y"], expected, atol=1e-4)


def test_inputs_without_factors_stay_as_they_are() -> None:
    assert graphs.fires(lambda: Smoothing({"another": FACTORS}), rows("y = MatMul(x, V)")) == 0


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_factors_are_those_of_the_paper(alpha: float) -> None:
    model = rows("y = MatMul(x, V)")
    value = token_products(model)[0].inputs[0]
    assert value is not None
    largest = np.arange(1, 9, dtype=np.float64)
    factors = smoothing_factors(model, {str(value.name): ChannelRange(-largest, largest)}, alpha=alpha)[str(value.name)]
    exact = largest**alpha / np.abs(WEIGHTS["V"]).max(1).astype(np.float64) ** (1 - alpha)
    np.testing.assert_allclose(factors, exact, rtol=2 ** (1 / 16) - 1 + 1e-6)  # half a step of the grid
    steps = np.log2(factors.astype(np.float64)) * 8
    np.testing.assert_allclose(steps, np.rint(steps), atol=1e-5)


def test_factors_do_not_hang_on_the_last_bits_of_a_range() -> None:
    """A CPU that adds up in another order changes them; factors are a step of a grid, and its steps have exact powers of two among them."""
    model = rows("y = MatMul(x, V)")
    value = token_products(model)[0].inputs[0]
    assert value is not None
    generator = np.random.default_rng(0)
    largest = generator.uniform(0.1, 40, 8)
    ranges = [largest * (1 + 1e-12 * generator.standard_normal(8)) for _ in range(2)]
    first, second = (smoothing_factors(model, {str(value.name): ChannelRange(-size, size)}, alpha=0.9) for size in ranges)
    assert not np.array_equal(*ranges)
    assert np.array_equal(first[str(value.name)], second[str(value.name)])


def test_a_dead_channel_is_left_alone() -> None:
    model = rows("y = MatMul(x, V)")
    value = token_products(model)[0].inputs[0]
    assert value is not None
    largest = np.ones(8, dtype=np.float32)
    largest[3] = 0
    assert smoothing_factors(model, {str(value.name): ChannelRange(-largest, largest)}, alpha=0.5)[str(value.name)][3] == 1
