"""The pass that spares the last layer its keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.passes.rewriting import (
    Builder,
    Dim,
    Rewritten,
    attribute,
    constant,
    constant_scalar,
    known_dims,
    permutation,
    produced_by,
    single_consumer,
)

VANISHES = -1e30  # a score this low has weight 0 in a softmax, whatever number is added to all the others


@dataclass(frozen=True)
class Projection:
    """`Reshape(hidden @ weight + bias)` into heads: hidden [B, S, H], weight [H, A*D], bias [A*D] or None."""

    hidden: ir.Value
    weight: NDArray[np.generic]
    bias: NDArray[np.generic] | None
    name: str


class SingleQueryAttention(ir.passes.InPlacePass):
    """Reassociates attention that has one query row, so that keys and values are never computed for all rows.

    With q [B, A, 1, D], hidden x [B, S, H] and per-head weights W_k, W_v [H, D]:

    1. `q (x W_k + b_k)^T = (q W_k^T) x^T + q b_k^T`. The last term is the same for every key and cancels in the softmax, exactly.
    2. `p (x W_v + b_v) = (p x) W_v + b_v`, since a softmax row sums to 1.

    A text of S tokens then costs 2 S H A multiply-adds where the projections cost 2 S H^2. Keys that are rotated or used elsewhere
    (rotary embeddings, disentangled attention) keep their projection; their values are still reassociated.
    """

    def call(self, model: ir.Model) -> Rewritten:
        count = 0
        for node in list(model.graph):
            if node.graph is not None and node.op_type == "MatMul" and not node.domain:
                count += _reassociate_scores(node) or _reassociate_context(node)
        return Rewritten.of(model, count)


def _reassociate_scores(scores: ir.Node) -> bool:
    """Rule 1: scores = MatMul(q [B, A, 1, D], k^T [B, A, D, S]) that a softmax reads, with nothing between but scale and bias."""
    query, keys = scores.inputs
    if query is None or keys is None or not _has_one_query(query) or not _reaches_softmax(scores.outputs[0]):
        return False
    batch, heads, _, width = known_dims(query)
    length = known_dims(keys)[-1]
    projection = _head_projection(keys, shape=(batch, length, heads, width), transposed=True)
    if projection is None or not isinstance(heads, int) or not isinstance(width, int):
        return False
    hidden_size = projection.weight.shape[0]
    build = Builder(scores)
    # [H, A*D] -> [A, D, H]
    per_head = projection.weight.reshape(hidden_size, heads, width).transpose(1, 2, 0)
    weight = build.initializer(per_head, f"{projection.name}.per_head")
    by_head = build.transpose(build.reshape(query, [batch, heads, width]), [1, 0, 2])
    wide = build.node("MatMul", [by_head, weight], [heads, batch, hidden_size])
    rows = build.transpose(wide, [1, 0, 2])
    columns = build.transpose(projection.hidden, [0, 2, 1])
    flat = build.node("MatMul", [rows, columns], [batch, heads, length])
    build.replace(scores, build.node("Unsqueeze", [flat, build.ints([2], "axis_2")], [batch, heads, 1, length]))
    return True


def _reassociate_context(context: ir.Node) -> bool:
    """Rule 2: context = MatMul(p [B, A, 1, S], v [B, A, S, D])."""
    weights, values = context.inputs
    if weights is None or values is None or not _has_one_query(weights) or not _over_keys(produced_by(weights, "Softmax")):
        return False
    batch, heads, _, length = known_dims(weights)
    width: Dim = known_dims(values)[-1]
    projection = _head_projection(values, shape=(batch, length, heads, width), transposed=False)
    if projection is None or not isinstance(heads, int) or not isinstance(width, int):
        return False
    hidden_size = projection.weight.shape[0]
    build = Builder(context)
    # [H, A*D] -> [A, H, D]
    per_head = projection.weight.reshape(hidden_size, heads, width).transpose(1, 0, 2)
    weight = build.initializer(per_head, f"{projection.name}.per_head")
    attended = build.node("Squeeze", [weights, build.ints([2], "axis_2")], [batch, heads, length])
    mixed = build.node("MatMul", [attended, projection.hidden], [batch, heads, hidden_size])
    by_head = build.node("MatMul", [build.transpose(mixed, [1, 0, 2]), weight], [heads, batch, width])
    if projection.bias is not None:
        bias = build.initializer(projection.bias.reshape(heads, 1, width), f"{projection.name}.bias.per_head")
        by_head = build.node("Add", [by_head, bias], [heads, batch, width])
    rows = build.transpose(by_head, [1, 0, 2])
    build.replace(context, build.node("Unsqueeze", [rows, build.ints([2], "axis_2")], [batch, heads, 1, width]))
    return True


def _has_one_query(value: ir.Value) -> bool:
    shape = known_dims(value)
    return len(shape) == 4 and shape[2] == 1


def _reaches_softmax(value: ir.Value) -> bool:
    """Whether the scores flow into a softmax through nothing that lets a number that all keys share matter.

    That is a scale that is the same for all keys, whatever is added, and a mask that fills with a number that a softmax turns into 0.
    """
    consumer = single_consumer(value)
    while consumer is not None and not consumer.domain and _keeps_a_shared_shift(consumer, value):
        value = consumer.outputs[0]
        consumer = single_consumer(value)
    return consumer is not None and _over_keys(consumer)


def _keeps_a_shared_shift(node: ir.Node, scores: ir.Value) -> bool:
    others = [item for item in node.inputs if item is not scores and item is not None]
    if node.op_type == "Add":
        return True
    if node.op_type == "Mul" or (node.op_type == "Div" and node.inputs[0] is scores):
        return all(known_dims(scale)[-1:] in ((), (1,)) for scale in others)
    if node.op_type == "Where" and node.inputs[0] is not scores:
        fill = constant_scalar(others[-1])
        return fill is not None and fill <= VANISHES
    return False


def _over_keys(softmax: ir.Node | None) -> bool:
    return softmax is not None and softmax.op_type == "Softmax" and not softmax.domain and attribute(softmax, "axis", -1) in (-1, 3)


def _head_projection(value: ir.Value, *, shape: tuple[Dim, ...], transposed: bool) -> Projection | None:
    """The projection behind [B, A, S, D], or behind [B, A, D, S] where `transposed`, whose heads are split as `shape` [B, S, A, D].

    None where it is anything else or read elsewhere.
    """
    split = _split_heads(value, (0, 2, 3, 1) if transposed else (0, 2, 1, 3))
    if split is None and transposed:  # k = Transpose(0, 2, 1, 3), then k^T = Transpose(0, 1, 3, 2)
        outer = produced_by(value, "Transpose")
        if outer is not None and permutation(outer) == (0, 1, 3, 2) and single_consumer(value) is not None:
            split = _split_heads(outer.inputs[0], (0, 2, 1, 3))
    reshape = produced_by(split, "Reshape")
    if reshape is None or single_consumer(reshape.outputs[0]) is None or known_dims(reshape.outputs[0]) != shape:
        return None
    projected = reshape.inputs[0]
    add = produced_by(projected, "Add")
    bias = None
    if add is not None:
        arrays = [constant(operand) for operand in add.inputs]
        index = next((number for number, array in enumerate(arrays) if array is not None and array.ndim == 1), None)
        if index is None or single_consumer(add.outputs[0]) is None:
            return None
        bias, projected = arrays[index], add.inputs[1 - index]
    matmul = produced_by(projected, "MatMul")
    weight = constant(matmul.inputs[1]) if matmul is not None else None
    if matmul is None or weight is None or weight.ndim != 2 or single_consumer(matmul.outputs[0]) is None:
        return None
    hidden = matmul.inputs[0]
    if hidden is None or known_dims(hidden) != (*shape[:2], weight.shape[0]):
        return None
    return Projection(hidden, weight, bias, matmul.inputs[1].name or "weight")  # type: ignore[union-attr]


def _split_heads(value: ir.Value | None, perm: tuple[int, ...]) -> ir.Value | None:
    transpose = produced_by(value, "Transpose")
    if transpose is None or value is None or single_consumer(value) is None or permutation(transpose) != perm:
        return None
    return transpose.inputs[0]
