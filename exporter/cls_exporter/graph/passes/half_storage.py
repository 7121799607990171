"""The pass that stores what an int8 graph computes in fp32 in half the bytes."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.half_precision import LARGEST_HALF
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant

SMALLEST_CONSTANT = 2**12  # elements; a smaller one would save less than the operator costs


class HalfStorage(ir.passes.InPlacePass):
    """Stores large float32 constants as float16 behind a `Cast`, which an engine computes once, when it loads the graph.

    1. Constants of rank 2 and more with at least 4,096 elements, except those with a value that float16 does not hold.
    """

    def call(self, model: ir.Model) -> Rewritten:
        large = [value for value in model.graph.initializers.values() if _is_large(value)]
        for value in large:
            _as_half(model.graph, value)
        return Rewritten.of(model, len(large))


def _is_large(value: ir.Value) -> bool:
    array = constant(value)
    if (
        array is None
        or array.dtype != np.float32
        or array.ndim < 2
        or array.size < SMALLEST_CONSTANT
        or value.is_graph_output()
        or not value.uses()
    ):
        return False
    return bool(np.abs(array).max() <= LARGEST_HALF)


def _as_half(graph: ir.Graph, value: ir.Value) -> None:
    array = constant(value)
    assert array is not None
    readers = list(value.uses())
    build = Builder(next(iter(graph)))
    half = build.initializer(array.astype(np.float16), f"{value.name}.float16")
    full = build.node("Cast", [half], array.shape, dtype=ir.DataType.FLOAT, attributes={"to": int(ir.DataType.FLOAT)})
    for use in readers:
        use.node.replace_input_with(use.idx, full)
