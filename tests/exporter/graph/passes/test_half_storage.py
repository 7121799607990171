"""Large constants as float16 behind a Cast."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.half_storage import HalfStorage


def product(weight: np.ndarray) -> ir.Model:
    text = f"g (float[B,{weight.shape[0]}] x) => (float[B,{weight.shape[1]}] y) {{ y = MatMul(x, W) }}"
    return graphs.parse(text, {"W": weight})


def test_a_large_constant_is_stored_in_half_the_bytes() -> None:
    weight = graphs.random_weights(W=(64, 64))["W"]
    model = product(weight.astype(np.float16).astype(np.float32))  # exact in float16, so that the numbers are the same
    assert graphs.fires(HalfStorage, model) == 1
    assert graphs.operators(model) == ["Cast", "MatMul"]
    assert [value.dtype for value in model.graph.initializers.values() if value.uses()] == [ir.DataType.FLOAT16]


@pytest.mark.parametrize(
    "weight",
    [np.ones((8, 8), dtype=np.float32), np.full((64, 64), 1e5, dtype=np.float32)],
    ids=["small", "beyond float16"],
)
def test_other_constants_stay_as_they_are(weight: np.ndarray) -> None:
    assert graphs.fires(HalfStorage, product(weight)) == 0


def test_all_readers_share_one_copy() -> None:
    weight = graphs.random_weights(W=(64, 64))["W"].astype(np.float16).astype(np.float32)
    model = graphs.parse("g (float[B,64] x) => (float[B,64] y) { z = MatMul(x, W)  y = MatMul(z, W) }", {"W": weight / 64})
    assert graphs.fires(HalfStorage, model, tolerance=1e-2) == 1
    assert graphs.operators(model) == ["Cast", "MatMul", "MatMul"]
