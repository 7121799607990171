"""A residual and its LayerNormalization as one operator of ONNX Runtime's."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion

WEIGHTS = {**graphs.random_weights(w=(8, 8), b=(8,), gamma=(8,), beta=(8,)), "wide": np.ones((1, 1, 8), dtype=np.float32)}
INPUTS, OUTPUTS = "float[B,S,8] x, float[B,S,8] skip", "float[B,S,8] y"


def norm(body: str, *, inputs: str = INPUTS, outputs: str = OUTPUTS) -> ir.Model:
    return graphs.parse(f"g ({inputs}) => ({outputs}) {{ p = MatMul(x, w)  {body} }}", WEIGHTS)


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        ("f = Add(p, b)  r = Add(f, skip)  y = LayerNormalization <axis = -1, epsilon = 1e-3> (r, gamma, beta)", 5),
        ("f = Add(b, p)  r = Add(skip, f)  y = LayerNormalization <axis = 2, epsilon = 1e-3> (r, gamma, beta)", 5),
        ("r = Add(p, skip)  y = LayerNormalization <axis = -1, epsilon = 1e-3> (r, gamma, beta)", 4),
        ("r = Add(skip, p)  y = LayerNormalization <axis = -1, epsilon = 1e-3> (r, gamma)", 3),
        ("f = Add(p, b)  r = Add(f, skip)  y = LayerNormalization <axis = -1, epsilon = 1e-3> (r, gamma)", 5),
        ("f = Add(p, b)  r = Add(f, f)  y = LayerNormalization <axis = -1, epsilon = 1e-3> (r, gamma, beta)", None),
    ],
    ids=["bias", "the other way", "no bias", "neither bias nor beta", "no beta", "twice the product"],
)
def test_a_residual_and_its_norm_are_one_operator(body: str, inputs: int | None) -> None:
    model = norm(body)
    assert graphs.fires(SkipLayerNormFusion, model) == (0 if inputs is None else 1)
    if inputs is None:
        return
    assert graphs.operators(model) == ["MatMul", "SkipLayerNormalization"]
    node = model.graph[1]
    assert len(node.inputs) == inputs
    assert node.attributes["epsilon"].as_float() == pytest.approx(1e-3)


def test_the_usual_epsilon_is_said() -> None:
    """The two operators' own defaults differ: 1e-5 and 1e-12."""
    model = norm("r = Add(p, skip)  y = LayerNormalization <axis = -1> (r, gamma, beta)")
    assert graphs.fires(SkipLayerNormFusion, model) == 1
    graphs.operators(model)
    assert model.graph[1].attributes["epsilon"].as_float() == pytest.approx(1e-5)


def test_a_sum_that_is_read_elsewhere_is_the_fourth_output() -> None:
    model = norm("r = Add(p, skip)  n = LayerNormalization <axis = -1> (r, gamma, beta)  q = Neg(r)  y = Add(n, q)")
    assert graphs.fires(SkipLayerNormFusion, model) == 1
    assert graphs.operators(model) == ["MatMul", "SkipLayerNormalization", "Neg", "Add"]
    assert [bool(value.name) for value in model.graph[1].outputs] == [True, False, False, True]


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        ("r = Add(x, skip)  y = LayerNormalization <axis = -1> (r, gamma, beta)", INPUTS, OUTPUTS),
        ("r = Add(p, wide)  y = LayerNormalization <axis = -1> (r, gamma, beta)", INPUTS, OUTPUTS),
        ("r = Mul(p, skip)  y = LayerNormalization <axis = -1> (r, gamma, beta)", INPUTS, OUTPUTS),
        ("r = Add(p, skip)  y = LayerNormalization <axis = -1> (r, g)", f"{INPUTS}, float[8] g", OUTPUTS),
        ("r = Add(p, skip)  y = LayerNormalization <axis = -1> (r, gamma, beta)", INPUTS, f"{OUTPUTS}, float[B,S,8] r"),
        ("r = Add(p, skip)  y, mean, other = LayerNormalization <axis = -1> (r, gamma, beta)", INPUTS, OUTPUTS),
        ("r = Add(p, skip)  y = Softmax <axis = -1> (r)", INPUTS, OUTPUTS),
    ],
    ids=["embeddings", "broadcast", "a product", "a computed scale", "the sum is an output", "statistics", "another operator"],
)
def test_what_stays(body: str, inputs: str, outputs: str) -> None:
    assert graphs.fires(SkipLayerNormFusion, norm(body, inputs=inputs, outputs=outputs), tolerance=0) == 0
