"""What quantization adds on average is taken out of the bias."""

from __future__ import annotations

import graphs
import numpy as np
import pytest
from onnx_ir.passes import common
from quantization import input_scales, nearest_weights

from cls_exporter.graph.passes.static_quantization import StaticQuantization
from cls_exporter.graph.passes.token_rows import TokenRows
from cls_exporter.variants.bias_correction import corrected_biases, set_biases
from cls_exporter.variants.calibration import input_moments
from cls_exporter.variants.exact_run import run_exactly
from cls_runtime.engines.padding import PaddedBatch

WEIGHTS = graphs.random_weights(E=(6, 8), W=(8, 8), b=(8,))
IDS = np.array([[0, 1, 2, 2, 3, 4, 5, 5, 5]], dtype=np.int64)
TEXTS = [PaddedBatch(IDS, np.ones_like(IDS), None)]


@pytest.mark.parametrize("body", ["p = MatMul(x, W)  y = Add(p, b)", "y = MatMul(x, W)"], ids=["with a bias", "without"])
def test_a_quantized_product_is_right_on_average(body):
    """Coarse steps, so that the mean error is large without it."""
    model = graphs.parse(f"g (int64[B,S] input_ids) => (float[B,S,8] y) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}", WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    scales, weights = input_scales(model, largest=60), nearest_weights(model)
    means = {name: moments.means for name, moments in input_moments(model, scales, lambda: TEXTS, list)}
    (exact,) = next(run_exactly(model, TEXTS, ["y"]))
    errors = {}
    for name, biases in {"as it was": {}, "corrected": corrected_biases(model, scales, weights, means)}.items():
        quantized = model.clone()
        set_biases(quantized, biases)
        StaticQuantization(scales, weights)(quantized)
        (rows,) = next(run_exactly(quantized, TEXTS, ["y"]))
        errors[name] = np.abs((rows - exact).mean((0, 1))).max()
    assert errors["as it was"] > 0.05
    assert errors["corrected"] < 0.01  # a bias is stored in steps of its own
