"""The pass that makes a graph compute the CLS row only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import (
    Builder,
    Dim,
    Rewritten,
    attribute,
    constant_ints,
    dims,
    known_dims,
    permutation,
    produced_by,
    reshape_target,
    same_elements,
)

ELEMENTWISE = frozenset(
    "Abs Add And Cast Ceil Celu Clip Cos Div Elu Equal Erf Exp Floor Gelu Greater GreaterOrEqual HardSigmoid HardSwish Identity LeakyRelu "
    "Less LessOrEqual Log Max Min Mish Mul Neg Not Or PRelu Pow Reciprocal Relu Round Selu Shrink Sigmoid Sign Sin Softplus Softsign Sqrt "
    "Sub Tanh ThresholdedRelu Where Xor".split()
)


@dataclass(frozen=True)
class Rule:
    """What an operation needs when only row 0 of `axis` of its outputs is wanted.

    `inputs` maps an input's index to the axis whose row 0 it needs; the others are read as they are. A Reshape gets a new target: the
    constant `shape`, or its computed one with a 1 at `shape_axis`.
    """

    inputs: Mapping[int, int]
    shape: tuple[int, ...] | None = None
    shape_axis: int | None = None


def _broadcast(node: ir.Node, axis: int) -> Rule | None:
    rank = len(known_dims(node.outputs[0]))
    needed: dict[int, int] = {}
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        shape = dims(value)
        if shape is None:
            return None
        aligned = axis - (rank - len(shape))
        if aligned >= 0 and shape[aligned] != 1:
            needed[index] = aligned
    return Rule(needed)


def _matmul(node: ir.Node, axis: int) -> Rule | None:
    left, right = (len(known_dims(value)) for value in node.inputs if value is not None)
    rank = len(known_dims(node.outputs[0]))
    if left < 2 or right < 2 or axis == rank - 1:
        return None
    if axis == rank - 2:
        return Rule({0: left - 2})
    return _broadcast(node, axis)


def _gemm(node: ir.Node, axis: int) -> Rule | None:
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if axis != 0 or attribute(node, "transA", 0) or (bias is not None and len(known_dims(bias)) > 1):
        return None
    return Rule({0: 0})


def _normalized_axis(node: ir.Node, axis: int) -> Rule | None:
    """Softmax and LayerNormalization: every axis that is not normalized is a row axis, where scale and bias are the same for all rows."""
    rank = len(known_dims(node.outputs[0]))
    normalized = attribute(node, "axis", -1) % rank
    if node.op_type == "Softmax":
        return Rule({0: axis}) if axis != normalized else None
    by_row = any(value is not None and len(known_dims(value)) > rank - normalized for value in node.inputs[1:])
    return Rule({0: axis}) if axis < normalized and not by_row else None


def _transpose(node: ir.Node, axis: int) -> Rule | None:
    perm = permutation(node)
    return Rule({0: perm[axis]})


def _reshape(node: ir.Node, axis: int) -> Rule | None:
    source, target = known_dims(node.inputs[0]), known_dims(node.outputs[0])  # type: ignore[arg-type]
    for index, dim in enumerate(source):
        if dim == target[axis] and same_elements(source[index + 1 :], target[axis + 1 :]):
            selected = [*source[:index], 1, *source[index + 1 :]]
            shape = reshape_target(selected, [*target[:axis], 1, *target[axis + 1 :]])
            if shape is not None:
                return Rule({0: index}, shape=tuple(shape))
            return Rule({0: index}, shape_axis=axis) if _target_parts(node) is not None else None
    return None


def _target_parts(reshape: ir.Node) -> list[ir.Value] | None:
    """The values that a Reshape's computed target is concatenated from, one a dimension."""
    concat = produced_by(reshape.inputs[1], "Concat")
    parts = [] if concat is None else [value for value in concat.inputs if value is not None and dims(value) == (1,)]
    return parts if len(parts) == len(known_dims(reshape.outputs[0])) else None


def _unsqueeze(node: ir.Node, axis: int) -> Rule | None:
    rank = len(known_dims(node.outputs[0]))
    axes = constant_ints(node.inputs[1])
    added = None if axes is None else {item % rank for item in axes}
    if added is None or axis in added:
        return None
    return Rule({0: axis - sum(item < axis for item in added)})


def _squeeze(node: ir.Node, axis: int) -> Rule | None:
    rank = len(known_dims(node.inputs[0]))  # type: ignore[arg-type]
    axes = constant_ints(node.inputs[1]) if len(node.inputs) > 1 else None
    if axes is None:
        return None
    kept = [item for item in range(rank) if item not in {index % rank for index in axes}]
    return Rule({0: kept[axis]})


def _concat(node: ir.Node, axis: int) -> Rule | None:
    if attribute(node, "axis", 0) % len(known_dims(node.outputs[0])) == axis:
        return None
    return Rule(dict.fromkeys(range(len(node.inputs)), axis))


def _split(node: ir.Node, axis: int) -> Rule | None:
    return None if attribute(node, "axis", 0) % len(known_dims(node.outputs[0])) == axis else Rule({0: axis})


def _slice(node: ir.Node, axis: int) -> Rule | None:
    if selected_axis(node) is not None:  # two selections would change places for ever
        return None
    rank = len(known_dims(node.outputs[0]))
    axes = constant_ints(node.inputs[3]) if len(node.inputs) > 3 else tuple(range(rank))
    return None if axes is None or axis in {item % rank for item in axes} else Rule({0: axis})


def _gather(node: ir.Node, axis: int) -> Rule | None:
    data, indices = (known_dims(value) for value in node.inputs[:2] if value is not None)
    gathered = attribute(node, "axis", 0) % len(data)
    if gathered <= axis < gathered + len(indices):
        return Rule({1: axis - gathered})
    return Rule({0: axis if axis < gathered else axis - len(indices) + 1})


def _gather_elements(node: ir.Node, axis: int) -> Rule | None:
    gathered = attribute(node, "axis", 0) % len(known_dims(node.outputs[0]))
    return Rule({1: axis}) if axis == gathered else Rule({0: axis, 1: axis})


RULES: dict[str, Callable[[ir.Node, int], Rule | None]] = {
    **dict.fromkeys(ELEMENTWISE, _broadcast),
    "Concat": _concat,
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Gemm": _gemm,
    "LayerNormalization": _normalized_axis,
    "MatMul": _matmul,
    "Reshape": _reshape,
    "Slice": _slice,
    "Softmax": _normalized_axis,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}


class RowSelection(ir.passes.InPlacePass):
    """Moves the selection of row 0 from the output up to where all rows are needed anyway.

    1. `Gather(x, 0, axis=1)` at the output becomes `Squeeze(Slice(x, 0:1))`, a selection that keeps the rank.
    2. A selection commutes with an operation that works row by row; the rule of each operation is in `RULES`.
    3. Selections of the same row of the same value are one.
    4. A selection moves only where nobody else reads the value, so no row is computed twice: it comes to rest on the hidden states
       that the last layer's keys and values are made of.

    Afterwards the last layer's query, attention output, feed-forward and LayerNorms are [B, 1, ...].
    """

    def call(self, model: ir.Model) -> Rewritten:
        moved = sum(_as_selection(node) for node in list(model.graph))
        progress = True
        while progress:
            progress = False
            for node in list(model.graph):
                axis = selected_axis(node)
                if axis is not None and node.graph is not None and _move_up(node, axis):
                    progress = True
                    moved += 1
        return Rewritten.of(model, moved)


def selected_axis(node: ir.Node) -> int | None:
    """The axis whose row 0 a node selects, None if it is no selection."""
    if node.op_type != "Slice" or len(node.inputs) < 4 or constant_ints(node.inputs[1]) != (0,) or constant_ints(node.inputs[2]) != (1,):
        return None
    if len(node.inputs) > 4 and constant_ints(node.inputs[4]) != (1,):
        return None
    axes = constant_ints(node.inputs[3])
    shape = dims(node.inputs[0]) if node.inputs[0] is not None else None
    return axes[0] % len(shape) if axes is not None and len(axes) == 1 and shape is not None else None


def _as_selection(node: ir.Node) -> bool:
    """Rule 1. Only a Gather on the row axis of a [B, S, ...] value counts."""
    if node.op_type != "Gather" or node.inputs[0] is None or attribute(node, "axis", 0) != 1 or constant_ints(node.inputs[1]) != (0,):
        return False
    if dims(node.inputs[1]) != () or len(known_dims(node.inputs[0])) < 3:  # type: ignore[arg-type]
        return False
    builder = Builder(node)
    row = _selection(builder, node.inputs[0], 1)
    builder.replace(node, builder.node("Squeeze", [row, builder.ints([1], "axis_1")], known_dims(node.outputs[0])))
    return True


def _selection(builder: Builder, value: ir.Value, axis: int) -> ir.Value:
    """Rule 3: the existing selection of `axis` of `value`, or a new one right behind its producer."""
    for consumer in value.consumers():
        if selected_axis(consumer) == axis:
            return consumer.outputs[0]
    shape = known_dims(value)
    bounds = [builder.ints([0], "row_0"), builder.ints([1], "row_1"), builder.ints([axis], f"axis_{axis}")]
    return builder.node("Slice", [value, *bounds], [*shape[:axis], 1, *shape[axis + 1 :]])


def _move_up(selection: ir.Node, axis: int) -> bool:
    """Rules 2 and 4 for one selection. True if it moved."""
    source = selection.inputs[0]
    producer = source.producer() if source is not None else None
    if source is None or producer is None or producer.op_type not in RULES or producer.domain:
        return False
    if not all(_only_selected(output, axis) for output in producer.outputs):
        return False
    rule = RULES[producer.op_type](producer, axis)
    if rule is None:
        return False
    builder = Builder(producer)
    inputs = [
        _selection(builder, value, rule.inputs[index]) if index in rule.inputs and value is not None else value
        for index, value in enumerate(producer.inputs)
    ]
    attributes = dict(producer.attributes)
    if rule.shape is not None:
        inputs[1] = builder.shape_constant(rule.shape)
        attributes.pop("allowzero", None)
    if rule.shape_axis is not None:
        inputs[1] = _with_one(builder, producer, rule.shape_axis)
    outputs = [ir.Value(name=output.name, shape=ir.Shape(_one_row(output, axis)), type=output.type) for output in producer.outputs]
    made = ir.node(producer.op_type, inputs, attributes=attributes, outputs=outputs, name=producer.name)
    builder.graph.insert_before(producer, made)
    for old, new in zip(producer.outputs, outputs, strict=True):
        for consumer in list(old.consumers()):
            builder.replace(consumer, new)
    builder.graph.remove(producer, safe=True)
    return True


def _with_one(builder: Builder, reshape: ir.Node, axis: int) -> ir.Value:
    parts = _target_parts(reshape)
    assert parts is not None
    parts[axis] = builder.ints([1], "one")
    return builder.node("Concat", parts, [len(parts)], attributes={"axis": 0})


def _only_selected(value: ir.Value, axis: int) -> bool:
    return not value.is_graph_output() and all(selected_axis(consumer) == axis for consumer in value.consumers())


def _one_row(value: ir.Value, axis: int) -> list[Dim]:
    shape = known_dims(value)
    return [*shape[:axis], 1, *shape[axis + 1 :]]
