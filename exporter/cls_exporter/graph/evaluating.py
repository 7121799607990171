"""What part of a graph computes, for passes that recognise a value by its numbers and not by how it was traced."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


def content_inputs(value: ir.Value) -> set[str]:
    """The graph inputs whose content (not only shape) `value` depends on."""
    seen: set[ir.Value] = set()
    inputs: set[str] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        producer = current.producer()
        if producer is None:
            if current.is_graph_input() and current.name:
                inputs.add(current.name)
        elif producer.op_type != "Shape":
            pending.extend(item for item in producer.inputs if item is not None)
    return inputs


def evaluator_of(graph: ir.Graph, value: ir.Value) -> ReferenceEvaluator:
    """Computes `value` from the graph's inputs, by ONNX's reference implementation."""
    wanted = list(graph.inputs)
    part = ir.convenience.extract(graph, inputs=wanted, outputs=[value])
    proto = ir.to_proto(ir.Model(part, ir_version=10))
    onnx.checker.check_model(proto)
    return ReferenceEvaluator(proto, new_ops=[GatherElements])


class GatherElements(OpRun):
    """GatherElements, under its own name; onnx's own does not take every shape that the operator may have."""

    def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array]:
        chosen = axis % data.ndim
        part = tuple(slice(None) if place == chosen else slice(size) for place, size in enumerate(indices.shape))
        return (np.take_along_axis(data[part], indices, chosen),)
