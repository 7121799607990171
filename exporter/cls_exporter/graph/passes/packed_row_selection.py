"""The pass that makes a packed graph compute the first row of each text only, as far up as nothing else is read."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Builder, Rewritten, attribute, constant, known_dims
from cls_exporter.graph.passes.row_selection import ELEMENTWISE
from cls_exporter.graph.passes.token_packing import CLS_ROWS, TOKENS

_BY_ROW = {
    "": ELEMENTWISE | {"MatMul", "LayerNormalization"},
    MICROSOFT_DOMAIN: frozenset({"BiasGelu", "FastGelu", "SkipLayerNormalization"}),
}


class PackedRowSelection(ir.passes.InPlacePass):
    """Moves `Gather(rows [T, N], cls_rows [B])` up to where all tokens' rows are needed anyway.

    1. The selection commutes with an operator that computes each row [T, N] alone: it selects of those of its inputs that are rows.
    2. It moves only where nobody else reads the operator's outputs, so no row is computed twice: it comes to rest on the context of the
       last attention and on the residual beside it.
    """

    def call(self, model: ir.Model) -> Rewritten:
        moved, progress = 0, True
        while progress:
            steps = sum(_move_up(node) for node in list(model.graph) if node.graph is not None and _selects(node))
            moved, progress = moved + steps, steps > 0
        return Rewritten.of(model, moved)


def _selects(node: ir.Node) -> bool:
    is_gather = node.op_type == "Gather" and not node.domain and attribute(node, "axis", 0) == 0
    return is_gather and node.inputs[1] is not None and node.inputs[1].name == CLS_ROWS and node.inputs[1].is_graph_input()


def _move_up(selection: ir.Node) -> bool:
    source = selection.inputs[0]
    node = None if source is None else source.producer()
    if source is None or node is None or node.op_type not in _BY_ROW.get(node.domain, ()) or source is not node.outputs[0]:
        return False
    if (
        any(output.uses() for output in node.outputs[1:])
        or source.is_graph_output()
        or not all(_selects(use.node) for use in source.uses())
    ):
        return False
    rows = [index for index, value in enumerate(node.inputs) if value is not None and known_dims(value)[:1] == (TOKENS,)]
    others = [value for index, value in enumerate(node.inputs) if index not in rows and value is not None]
    if not rows or any(constant(value) is None for value in others):
        return False
    build = Builder(node)
    for index in rows:
        node.replace_input_with(index, _selected(build, node.inputs[index], selection.inputs[1]))
    source.shape = selection.outputs[0].shape
    for use in list(source.uses()):
        build.replace(use.node, source)
    return True


def _selected(build: Builder, value: ir.Value | None, cls_rows: ir.Value | None) -> ir.Value:
    assert value is not None
    assert cls_rows is not None
    for use in value.uses():
        if _selects(use.node):
            return use.node.outputs[0]
    return build.node("Gather", [value, cls_rows], [*known_dims(cls_rows), *known_dims(value)[1:]], attributes={"axis": 0})
