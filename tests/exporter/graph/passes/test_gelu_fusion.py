from __future__ import annotations

import math

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.gelu_fusion import GeluFusion

CONSTANTS = {"half": 0.5, "one": 1.0, "root": math.sqrt(2 / math.pi), "cubic": 0.044715, "three": 3.0}
BODY = """p = Pow(x, three)  c = Mul({cubic})  s = Add({sum})  r = Mul({root})
    t = Tanh(r)  g = Add({shifted})  h = Mul({half})  y = Mul({product})"""
OPERANDS = {"cubic": "cubic, p", "sum": "x, c", "root": "s, root", "shifted": "t, one", "half": "x, half", "product": "h, g"}


def tanh_gelu(*, operands: dict[str, str] | None = None, constants: dict[str, float] | None = None) -> ir.Model:
    text = f"g (float[B,S,8] x, float[B,S,8] z) => (float[B,S,8] y) {{ {BODY.format(**{**OPERANDS, **(operands or {})})} }}"
    values = {**CONSTANTS, **(constants or {})}
    return graphs.parse(text, {name: np.array(value, dtype=np.float32) for name, value in values.items()})


def test_the_decomposed_gelu_is_one_operator() -> None:
    model = tanh_gelu()
    assert graphs.fires(GeluFusion, model) == 1
    assert graphs.operators(model) == ["Gelu"]
    assert model.graph[0].attributes["approximate"].as_string() == "tanh"


@pytest.mark.parametrize("place", OPERANDS)
def test_operands_may_be_in_either_order(place: str) -> None:
    model = tanh_gelu(operands={place: ", ".join(reversed(OPERANDS[place].split(", ")))})
    assert graphs.fires(GeluFusion, model) == 1


@pytest.mark.parametrize("name", CONSTANTS)
def test_another_constant_is_another_function(name: str) -> None:
    changed = 2.0 if name == "three" else CONSTANTS[name] * 1.01
    assert graphs.fires(GeluFusion, tanh_gelu(constants={name: changed}), tolerance=0) == 0


@pytest.mark.parametrize("place", ["sum", "half"])
def test_another_input_is_another_function(place: str) -> None:
    assert graphs.fires(GeluFusion, tanh_gelu(operands={place: OPERANDS[place].replace("x", "z")}), tolerance=0) == 0


def test_the_exact_gelu_stays() -> None:
    assert graphs.fires(GeluFusion, graphs.parse("g (float[B,S,8] x) => (float[B,S,8] y) { y = Gelu(x) }")) == 0


def test_a_constant_that_raises_the_rank_stays() -> None:
    text = f"g (float[S,8] x) => (float[1,S,8] y) {{ {BODY.format(**OPERANDS)} }}"
    weights = {name: np.array(value, dtype=np.float32) for name, value in CONSTANTS.items()}
    model = graphs.parse(text, {**weights, "half": np.full((1, 1, 1), 0.5, dtype=np.float32)})
    assert graphs.fires(GeluFusion, model) == 0
