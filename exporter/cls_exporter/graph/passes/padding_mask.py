"""The pass that replaces a traced attention mask by the one it means."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.evaluating import content_inputs, evaluator_of
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant_scalar, dims, known_dims, produced_by, single_consumer

MASK_INPUT = "attention_mask"
MASKED = np.finfo(np.float32).min
PROBE_SHAPE = (5, 11)  # B, S of the masks that a traced mask is tried on


class PaddingMask(ir.passes.InPlacePass):
    """Replaces whatever transformers traced for a padding mask by `Where(attention_mask[B, 1, 1, S], 0, lowest)`.

    1. A candidate is what is added to attention scores and depends on no input's content but `attention_mask`.
    2. It is evaluated, by the ONNX reference implementation, on ragged, scattered and empty masks. Only where it equals the plain
       padding mask on all of them, bit for bit, is it replaced; a sliding window is not.
    3. `Where(masked, lowest, scores)` fills scores instead of adding to them. It becomes an Add of the plain mask where
       `Where(masked, lowest, 0)` passes rule 2.

    How a mask is traced changes with every version of transformers; what it computes does not, so it is recognised by its values.
    """

    def call(self, model: ir.Model) -> Rewritten:
        verdicts: dict[ir.Value, bool] = {}
        replaced: dict[ir.Value, ir.Value] = {}
        for add, index in [place for node in model.graph for place in _added_to_scores(node)]:
            value = add.inputs[index]
            assert value is not None
            if value not in verdicts:
                verdicts[value] = not is_plain_mask(value) and _is_padding_mask(model.graph, value)
            if verdicts[value]:
                if value not in replaced:
                    replaced[value] = _plain_mask(model.graph, add)
                add.replace_input_with(index, replaced[value])
        filled = sum(_added_instead_of_filled(model.graph, node) for node in list(model.graph) if node.op_type == "Softmax")
        return Rewritten.of(model, len(replaced) + filled)


def _added_instead_of_filled(graph: ir.Graph, softmax: ir.Node) -> bool:
    """Rule 3."""
    fill = produced_by(softmax.inputs[0], "Where")
    if fill is None or single_consumer(fill.outputs[0]) is None:
        return False
    masked, lowest, scores = fill.inputs
    expand = produced_by(masked, "Expand")
    masked = masked if expand is None else expand.inputs[0]
    if masked is None or scores is None or constant_scalar(lowest) != MASKED or content_inputs(masked) != {MASK_INPUT}:
        return False
    shape = known_dims(fill.outputs[0])
    if dims(scores) != shape or len(known_dims(masked)) != 4 or known_dims(masked)[1] != 1:
        return False
    build = Builder(fill)
    zero = build.initializer(np.array(0, dtype=np.float32), "unmasked")
    candidate = build.node("Where", [masked, lowest, zero], known_dims(masked), dtype=ir.DataType.FLOAT)
    plain = _is_padding_mask(graph, candidate)
    graph.remove(candidate.producer(), safe=True)  # type: ignore[arg-type]
    if plain:
        build.replace(fill, build.node("Add", [scores, _plain_mask(graph, fill)], shape))
    return plain


def _added_to_scores(node: ir.Node) -> list[tuple[ir.Node, int]]:
    """Rule 1: where a softmax's input gets a term added that comes from `attention_mask` alone, as (Add, index of the term)."""
    if node.op_type != "Softmax" or node.domain:
        return []
    places: list[tuple[ir.Node, int]] = []
    add = produced_by(node.inputs[0], "Add")
    while add is not None:
        scores = None
        for index, operand in enumerate(add.inputs):
            other = add.inputs[1 - index]
            if operand is None or other is None or content_inputs(operand) != {MASK_INPUT}:
                scores = operand
            elif dims(other) == dims(add.outputs[0]):
                places.append((add, index))
        add = produced_by(scores, "Add")
    return places


def _is_padding_mask(graph: ir.Graph, value: ir.Value) -> bool:
    """Rule 2."""
    shape = known_dims(value)
    if value.dtype != ir.DataType.FLOAT or len(shape) != 4:
        return False
    evaluator = evaluator_of(graph, value)
    batch, length = PROBE_SHAPE
    for mask in _probe_masks():
        feed = {name: mask if name == MASK_INPUT else np.zeros_like(mask) for name in evaluator.input_names}
        array = np.asarray(next(iter(evaluator.run(None, feed))))
        expected = np.where(mask[:, None, None, :] != 0, np.float32(0), MASKED)
        if array.shape[-1] != length or not np.array_equal(np.broadcast_to(array, (batch, 1, length, length)), expected.repeat(length, 2)):
            return False
    return True


def _probe_masks() -> list[NDArray[np.int64]]:
    """int64 [B, S] each: ragged rows, scattered zeros, and rows that are all padding."""
    batch, length = PROBE_SHAPE
    lengths = np.array([length, 1, 3, length - 1, 7])[:, None]
    ragged = (np.arange(length)[None, :] < lengths).astype(np.int64)
    scattered = (np.arange(batch * length).reshape(batch, length) * 7 % 5 != 0).astype(np.int64)
    empty = ragged.copy()
    empty[2:4] = 0
    return [np.ones((batch, length), dtype=np.int64), ragged, scattered, empty]


def is_plain_mask(value: ir.Value) -> bool:
    """Whether `value` is what this pass makes."""
    where = produced_by(value, "Where")
    if where is None or constant_scalar(where.inputs[1]) != 0 or constant_scalar(where.inputs[2]) != MASKED:
        return False
    row = produced_by(where.inputs[0], "Unsqueeze")
    kept = produced_by(row.inputs[0], "Cast") if row is not None else None
    return kept is not None and kept.inputs[0] is not None and kept.inputs[0].name == MASK_INPUT and len(known_dims(value)) == 4


def _plain_mask(graph: ir.Graph, anchor: ir.Node) -> ir.Value:
    build = Builder(anchor)
    mask = next(item for item in graph.inputs if item.name == MASK_INPUT)
    batch, length = known_dims(mask)
    kept = build.node("Cast", [mask], [batch, length], dtype=ir.DataType.BOOL, attributes={"to": int(ir.DataType.BOOL)})
    row = build.node("Unsqueeze", [kept, build.ints([1, 2], "axes_1_2")], [batch, 1, 1, length])
    zero = build.initializer(np.array(0, dtype=np.float32), "unmasked")
    lowest = build.initializer(np.array(MASKED, dtype=np.float32), "masked")
    return build.node("Where", [row, zero, lowest], [batch, 1, 1, length], dtype=ir.DataType.FLOAT, name="padding_mask")
