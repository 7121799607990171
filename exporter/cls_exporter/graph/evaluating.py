"""What part of a graph computes, for passes that recognise a value by its numbers and not by how it was traced."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]


def computed_from(value: ir.Value, *, through_shapes: bool = True) -> Iterator[ir.Value]:
    """`value` and everything that it is computed from, each once; without `through_shapes` not what only its shape is read of."""
    seen: set[ir.Value] = set()
    pending = [value]
    while pending:
        current = pending.pop()
        if current in seen:
            continue
        seen.add(current)
        yield current
        producer = current.producer()
        if producer is not None and (through_shapes or producer.op_type != "Shape"):
            pending.extend(item for item in producer.inputs if item is not None)


def content_inputs(value: ir.Value) -> set[str]:
    """The graph inputs whose content (not only shape) `value` depends on."""
    read = computed_from(value, through_shapes=False)
    return {item.name for item in read if item.producer() is None and item.is_graph_input() and item.name}


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
