"""What every pass needs to read and build nodes. Domains are spelled here and nowhere else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError

ONNX_DOMAIN = ""
MICROSOFT_DOMAIN = "com.microsoft"

Dim = int | str
AttributeValue = int | float | str | Sequence[int] | Sequence[float]


@dataclass
class Rewritten(ir.passes.PassResult):
    """A pass's result that also says how often it fired."""

    count: int

    @classmethod
    def of(cls, model: ir.Model, count: int) -> Rewritten:
        """The result of a pass that fired `count` times; leaves the graph sorted."""
        if count:
            model.graph.sort()
        return cls(model, modified=count > 0, count=count)


def dims(value: ir.Value) -> tuple[Dim, ...] | None:
    """The value's shape as ints and symbols, None where the rank is unknown.

    An unnamed dimension gets a symbol of its own, since nothing says that it equals any other.
    """
    if value.shape is None:
        return None
    return tuple(dim if isinstance(dim, int) else (dim.value or f"{value.name}.{index}") for index, dim in enumerate(value.shape))


def known_dims(value: ir.Value) -> tuple[Dim, ...]:
    """Like `dims`, for values whose rank must be known.

    Raises:
        GraphError: it is not.
    """
    shape = dims(value)
    if shape is None:
        raise GraphError(f"the shape of {value.name} is unknown; the tracer gives every value a shape")
    return shape


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The value's array if it is an initializer or a Constant node's output, else None."""
    if value is None:
        return None
    tensor = value.const_value if value.const_value is not None else ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """An integer constant as a flat tuple, else None."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(int(item) for item in array.reshape(-1))


def constant_scalar(value: ir.Value | None) -> float | None:
    """A constant with one element as a float, else None."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def attribute(node: ir.Node, name: str, default: int) -> int:
    """An integer attribute, or its default."""
    held = node.attributes.get(name)
    return default if held is None else held.as_int()


def permutation(transpose: ir.Node) -> tuple[int, ...]:
    """A Transpose's axes; ONNX reverses them where it says none."""
    axes = transpose.attributes.get("perm")
    if axes is not None:
        return tuple(axes.as_ints())
    return tuple(reversed(range(len(known_dims(transpose.outputs[0])))))


def produced_by(value: ir.Value | None, op_type: str, domain: str = ONNX_DOMAIN) -> ir.Node | None:
    """The node that makes `value` if it is a `domain::op_type`, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op_type and node.domain == domain else None


def single_consumer(value: ir.Value) -> ir.Node | None:
    """The only node that reads `value`, and it reads it once; None otherwise or where `value` is a graph output."""
    uses = list(value.uses())
    return uses[0].node if len(uses) == 1 and not value.is_graph_output() else None


def same_elements(first: Sequence[Dim], second: Sequence[Dim]) -> bool:
    """Whether two runs of dimensions have the same number of elements, symbols taken as unknown and equal only to themselves."""

    def signature(run: Sequence[Dim]) -> tuple[int, tuple[str, ...]]:
        return math.prod(dim for dim in run if isinstance(dim, int)), tuple(sorted(dim for dim in run if isinstance(dim, str)))

    return signature(first) == signature(second)


def reshape_target(source: Sequence[Dim], target: Sequence[Dim]) -> list[int] | None:
    """A constant shape for `Reshape(allowzero=0)` from `source` to `target`: 0 copies a dimension, one -1 is left to the engine.

    None where that cannot say it.
    """
    shape: list[int] = []
    for index, dim in enumerate(target):
        if isinstance(dim, int):
            shape.append(dim)
        else:
            shape.append(0 if index < len(source) and source[index] == dim else -1)
    return shape if shape.count(-1) <= 1 and 0 not in [dim for dim in target if isinstance(dim, int)] else None


class Builder:
    """Makes nodes and initializers in front of an anchor node, each with its output's shape and type."""

    def __init__(self, anchor: ir.Node) -> None:
        graph = anchor.graph
        if not isinstance(graph, ir.Graph):
            raise GraphError(f"node {anchor.name} is in no graph")
        self.graph, self.anchor = graph, anchor

    def node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        shape: Sequence[Dim],
        *,
        dtype: ir.DataType | None = None,
        attributes: Mapping[str, AttributeValue] | None = None,
        domain: str = ONNX_DOMAIN,
        name: str | None = None,
    ) -> ir.Value:
        """Inserts a node with one output; its type is `dtype`, or that of the first input."""
        kind = dtype if dtype is not None else (inputs[0].dtype if inputs[0] is not None else None)
        output = ir.Value(name=name, shape=ir.Shape(shape), type=None if kind is None else ir.TensorType(kind))
        made = ir.node(op_type, inputs, attributes=attributes, domain=domain, outputs=[output])
        self.graph.insert_before(self.anchor, made)
        return output

    def initializer(self, array: NDArray[np.generic], name: str) -> ir.Value:
        """Registers an initializer; `name` gets a number where it is taken by another content."""
        taken = self.graph.initializers
        candidate, number = name, 1
        while candidate in taken:
            known = constant(taken[candidate])
            if known is not None and known.dtype == array.dtype and known.shape == array.shape and np.array_equal(known, array):
                return taken[candidate]
            candidate, number = f"{name}_{number}", number + 1
        tensor = ir.tensor(np.array(array, order="C"), name=candidate)
        value = ir.Value(name=candidate, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
        self.graph.register_initializer(value)
        return value

    def ints(self, values: Iterable[int], name: str) -> ir.Value:
        """An int64 initializer of rank 1."""
        return self.initializer(np.array(list(values), dtype=np.int64), name)

    def reshape(self, value: ir.Value, shape: Sequence[Dim]) -> ir.Value:
        """Reshapes `value` to `shape` with a constant target.

        Raises:
            GraphError: the target cannot be said as a constant.
        """
        target = reshape_target(known_dims(value), shape)
        if target is None:
            raise GraphError(f"no constant shape turns {known_dims(value)} of {value.name} into {tuple(shape)}")
        return self.node("Reshape", [value, self.shape_constant(target)], shape)

    def shape_constant(self, target: Sequence[int]) -> ir.Value:
        """A Reshape's target as an initializer that is named for its content."""
        return self.ints(target, "shape_" + "_".join("n" if dim == -1 else str(dim) for dim in target))

    def transpose(self, value: ir.Value, perm: Sequence[int]) -> ir.Value:
        """Transposes `value`."""
        source = known_dims(value)
        return self.node("Transpose", [value], [source[axis] for axis in perm], attributes={"perm": list(perm)})

    def replace(self, node: ir.Node, output: ir.Value) -> None:
        """Lets every reader of `node`'s only output read `output`, keeps a graph output's name, and removes the node."""
        old = node.outputs[0]
        if old.is_graph_output():
            output.name = old.name
        old.replace_all_uses_with(output, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
