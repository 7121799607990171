"""int8 weights as the exporter writes them: every engine's kernels compute the same integers, on CPUs with VNNI and without.

Without VNNI an x86 kernel adds the products of two neighbouring rows of a weight in 16 bits. Weights whose neighbours' sizes add up to 128
at most fit there with any uint8 input, and these tests take the inputs and weights that come nearest to the edge.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

LARGEST_PAIR = 128
SHAPES = [(32, 48), (30, 20), (384, 384), (384, 1536), (1536, 384)]  # K, N: narrower and wider, and not a multiple of a vector's width
ROWS = (1, 2, 3, 7, 26, 64)
STEP = np.float32(1 / 255)

Product = Callable[[np.ndarray], np.ndarray]


def weight_at_the_edge(shape: tuple[int, int]) -> np.ndarray:
    """int8 [K, N] of which every pair of rows uses all the room, with one sign in a column, so that nothing cancels."""
    generator = np.random.default_rng(0)
    first = generator.integers(1, LARGEST_PAIR, (shape[0] // 2, shape[1]))
    first[::2] = 64
    signs = generator.choice([-1, 1], (1, shape[1]))
    weight = np.empty(shape, dtype=np.int64)
    weight[0::2], weight[1::2] = first * signs, (LARGEST_PAIR - first) * signs
    return weight.astype(np.int8)


def quantized_product(weight: np.ndarray, *, form: str) -> bytes:
    """x [M, K] in 255 steps from 0 to 1, times a weight; in one of the two forms that a bundle's graph has."""
    rows, columns = weight.shape
    arrays = {
        "weight": weight,
        "scales": np.ones(columns, dtype=np.float32),
        "zeros": np.zeros(columns, dtype=np.int8),
        "step": np.array(STEP),
        "zero": np.array(0, dtype=np.uint8),
        "bias": np.zeros(columns, dtype=np.float32),
        "units": np.zeros(columns, dtype=np.int32),
        "unit": np.full(columns, STEP),
        "no_units": np.zeros(columns, dtype=np.int32),
    }
    nodes = [helper.make_node("QuantizeLinear", ["x", "step", "zero"], ["steps"])]
    if form == "MatMulIntegerToFloat":
        inputs = ["steps", "weight", "step", "scales", "zero", "zeros", "bias"]
        nodes.append(helper.make_node(form, inputs, ["y"], domain="com.microsoft"))
    else:
        nodes += [
            helper.make_node("DequantizeLinear", ["steps", "step", "zero"], ["input"]),
            helper.make_node("DequantizeLinear", ["weight", "scales", "zeros"], ["columns"], axis=1),
            helper.make_node("DequantizeLinear", ["units", "unit", "no_units"], ["offset"], axis=0),
            helper.make_node("Gemm", ["input", "columns", "offset"], ["y"]),
        ]
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["M", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["M", columns])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items() if name in used],
    )
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def in_onnxruntime(model: bytes) -> Product:
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda x: np.asarray(session.run(["y"], {"x": x})[0])


def in_openvino(model: bytes) -> Product:
    pytest.importorskip("openvino.properties")  # a folder of that name imports too, as an empty package
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda x: np.asarray(compiled(x)[0])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    ("load", "form"),
    [(in_onnxruntime, "Gemm"), (in_onnxruntime, "MatMulIntegerToFloat"), (in_openvino, "Gemm")],
    ids=["ONNX Runtime Gemm", "ONNX Runtime MatMulIntegerToFloat", "OpenVINO"],
)
def test_nothing_saturates(load, form, shape):
    weight = weight_at_the_edge(shape)
    product = load(quantized_product(weight, form=form))
    generator = np.random.default_rng(1)
    for rows in ROWS:
        steps = np.where(generator.random((rows, shape[0])) < 0.5, 255, generator.integers(0, 256, (rows, shape[0])))
        steps[0] = 255
        exact = steps @ weight.astype(np.int64)
        sums = product((steps / 255).astype(np.float32)) * 255
        np.testing.assert_allclose(sums, exact, rtol=1e-5, atol=0.5)  # a saturated pair is off by more than a hundred
