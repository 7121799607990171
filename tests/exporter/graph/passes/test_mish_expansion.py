from __future__ import annotations

import graphs

from cls_exporter.graph.passes.mish_expansion import MishExpansion


def test_mish_is_three_operators() -> None:
    model = graphs.parse("g (float[B,S,8] x) => (float[B,S,8] y) { y = Mish(x) }")
    assert graphs.fires(MishExpansion, model) == 1
    assert graphs.operators(model) == ["Softplus", "Tanh", "Mul"]


def test_another_activation_stays() -> None:
    assert graphs.fires(MishExpansion, graphs.parse("g (float[B,S,8] x) => (float[B,S,8] y) { y = HardSwish(x) }")) == 0
