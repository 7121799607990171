"""Small graphs for tests of graph passes: parsed from ONNX's text, run without the engine's optimizer, held to the pass's promises."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx_ir.passes import common

Array = NDArray[np.generic]
BATCH, SEQUENCE = "batch_size", "sequence_length"
SIZES = ((3, 5), (1, 1), (2, 7))  # B, S of every comparison: ragged, the smallest, and another


def parse(text: str, weights: Mapping[str, Array] | None = None) -> ir.Model:
    """A model from the text of its graph. B and S in a shape are the symbols of a traced graph.

    Those of `weights` that the text names and does not declare as inputs become initializers.
    """
    for letter, symbol in (("B", BATCH), ("S", SEQUENCE)):
        text = text.replace(f"[{letter},", f"[{symbol},").replace(f",{letter},", f",{symbol},").replace(f",{letter}]", f",{symbol}]")
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : 20]>\n{text}')
    used = set(re.findall(r"\w+", text)) - {value.name for value in proto.graph.input}
    proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in (weights or {}).items() if name in used)
    proto = onnx.shape_inference.infer_shapes(proto, check_type=True, strict_mode=True, data_prop=True)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def random_weights(seed: int = 0, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """float32 arrays of the given shapes by name, standard normal."""
    generator = np.random.default_rng(seed)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def integers(values: Mapping[str, Sequence[int]]) -> dict[str, Array]:
    """int64 arrays of rank 1 by name."""
    return {name: np.array(list(value), dtype=np.int64) for name, value in values.items()}


def run(model: ir.Model, feed: Mapping[str, Array]) -> dict[str, Array]:
    """Every output by name, from ONNX Runtime with its optimizer off: what is compared is this graph and no other."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3  # a pass leaves unused initializers to the clean-up after it
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(feed)), strict=True))


def feed_for(model: ir.Model, *, batch: int, length: int, seed: int = 0) -> dict[str, Array]:
    """Random inputs: normal floats, int64 zeros and ones. Every mask has a row that ends early where there are two tokens or more."""
    generator = np.random.default_rng(seed)
    symbols = {BATCH: batch, SEQUENCE: length}
    feed: dict[str, Array] = {}
    for value in model.graph.inputs:
        assert value.shape is not None
        shape = tuple(dim if isinstance(dim, int) else symbols[str(dim.value)] for dim in value.shape)
        if value.dtype == ir.DataType.FLOAT:
            feed[str(value.name)] = generator.standard_normal(shape).astype(np.float32)
        elif value.dtype == ir.DataType.BOOL:
            feed[str(value.name)] = generator.integers(0, 2, shape).astype(np.bool_)
        else:
            ids = generator.integers(0, 2, shape)
            ids[..., 0] = 1
            feed[str(value.name)] = ids.astype(np.int64)
    return feed


def fires(make: Callable[[], ir.passes.InPlacePass], model: ir.Model, *, tolerance: float = 1e-5) -> int:
    """Runs a pass twice and holds it to what every pass promises; returns how often it fired the first time.

    The numbers are the same with the engine's optimizer off; inputs and outputs keep names, types and order; the result is valid ONNX;
    `modified` says the truth; a second run changes nothing.
    """
    feeds = [feed_for(model, batch=batch, length=length) for batch, length in SIZES]
    before, signature, text = [run(model, feed) for feed in feeds], _signature(model), _text(model)
    first = make()(model)
    assert first.modified == (first.count > 0)
    if first.count == 0:
        assert _text(model) == text
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    assert _signature(model) == signature
    for feed, expected in zip(feeds, before, strict=True):
        outputs = run(model, feed)
        for name, array in expected.items():
            np.testing.assert_allclose(outputs[name], array, rtol=0, atol=tolerance, err_msg=name)
    once = _text(model)
    second = make()(model)
    assert (second.count, second.modified) == (0, False)
    assert _text(model) == once
    return int(first.count)


def operators(model: ir.Model) -> list[str]:
    """The operators of the nodes that an output depends on, in order; removes the others."""
    common.RemoveUnusedNodesPass()(model)
    return [node.op_type for node in model.graph]


def _signature(model: ir.Model) -> list[tuple[str, str]]:
    values = [*model.graph.inputs, *model.graph.outputs]
    return [(str(value.name), f"{value.dtype} {value.shape}") for value in values]


def _text(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)
