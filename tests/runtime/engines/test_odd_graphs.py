"""Graphs whose output is not what the manifest says, on the real engines: never broadcast, cast or cut into rows that look right."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_builder import HIDDEN, describe, write_manifest
from onnx import TensorProto, helper, numpy_helper

from cls_runtime import BundleError, ClsError, Encoder
from cls_runtime.bundle.manifest import read_manifest

TEXTS = ["the cat sleeps", "a", "the dog runs", "zebra!"]
OUTPUT = "sentence_embedding"

# How the output is made of the right one: operator, further inputs, attributes; its type and shape.
ODD: dict[str, tuple[str, list[np.ndarray], dict[str, int], int, list[int | str]]] = {
    "[1, width]": ("ReduceMean", [np.array([0])], {"keepdims": 1}, TensorProto.FLOAT, [1, HIDDEN]),
    "[B, 1]": ("ReduceMean", [np.array([1])], {"keepdims": 1}, TensorProto.FLOAT, ["batch_size", 1]),
    "[width]": ("ReduceMean", [np.array([0])], {"keepdims": 0}, TensorProto.FLOAT, [HIDDEN]),
    "a scalar": ("ReduceMean", [np.array([0, 1])], {"keepdims": 0}, TensorProto.FLOAT, []),
    "three axes": ("Unsqueeze", [np.array([1])], {}, TensorProto.FLOAT, ["batch_size", 1, HIDDEN]),
    "more rows": ("Tile", [np.array([2, 1])], {}, TensorProto.FLOAT, ["more", HIDDEN]),
    "wider": ("Tile", [np.array([1, 2])], {}, TensorProto.FLOAT, ["batch_size", 2 * HIDDEN]),
    "float64": ("Cast", [], {"to": TensorProto.DOUBLE}, TensorProto.DOUBLE, ["batch_size", HIDDEN]),
    "float16": ("Cast", [], {"to": TensorProto.FLOAT16}, TensorProto.FLOAT16, ["batch_size", HIDDEN]),
    "int64": ("Cast", [], {"to": TensorProto.INT64}, TensorProto.INT64, ["batch_size", HIDDEN]),
    "bool": ("Cast", [], {"to": TensorProto.BOOL}, TensorProto.BOOL, ["batch_size", HIDDEN]),
    "strings": ("Cast", [], {"to": TensorProto.STRING}, TensorProto.STRING, ["batch_size", HIDDEN]),
}


@pytest.fixture
def with_graph(own_bundle: Path) -> Callable[[onnx.ModelProto], Path]:
    """The bundle with another graph, its hash made to fit."""

    def write(model: onnx.ModelProto) -> Path:
        (own_bundle / "onnx/model.onnx").write_bytes(model.SerializeToString())
        manifest = read_manifest(own_bundle)
        fp32 = dataclasses.replace(manifest.variants["fp32"], files=(describe(own_bundle, "onnx/model.onnx"),))
        write_manifest(own_bundle, dataclasses.replace(manifest, variants={"fp32": fp32}, fingerprint=""))
        return own_bundle

    return write


def with_odd_output(model: onnx.ModelProto, case: str) -> onnx.ModelProto:
    operator, inputs, attributes, kind, shape = ODD[case]
    opset = next(item for item in model.opset_import if not item.domain)
    opset.version = 18  # the axes of ReduceMean are an input
    for node in model.graph.node:
        node.input[:] = ["right" if name == OUTPUT else name for name in node.input]
        node.output[:] = ["right" if name == OUTPUT else name for name in node.output]
    names = [f"axes{place}" for place, _ in enumerate(inputs)]
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in zip(names, inputs, strict=True))
    model.graph.node.append(helper.make_node(operator, ["right", *names], [OUTPUT], **attributes))
    outputs = [item for item in model.graph.output if item.name != OUTPUT]
    del model.graph.output[:]
    model.graph.output.extend([*outputs, helper.make_tensor_value_info(OUTPUT, kind, shape)])
    return model


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("case", ODD)
def test_an_odd_output_is_an_error(case: str, engine: str, own_bundle: Path, with_graph: Callable[[onnx.ModelProto], Path]) -> None:
    pytest.importorskip("openvino.properties" if engine == "openvino" else engine)  # a folder of tests is called openvino too
    folder = with_graph(with_odd_output(onnx.load(own_bundle / "onnx/model.onnx"), case))
    with pytest.raises(ClsError) as caught, Encoder.load(folder, engine=engine, threads=1) as encoder:
        encoder.encode(TEXTS)
    assert "\n" not in str(caught.value)
    if case != "strings":  # which OpenVINO does not load
        assert isinstance(caught.value, BundleError)
        assert f"the graph's {OUTPUT} is " in str(caught.value)
