"""The pass that stores embedding tables in a byte an element."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, attribute, constant, known_dims

SMALLEST_TABLE = 2**12  # elements; a smaller table would save less than the operators cost


class Int8Embeddings(ir.passes.InPlacePass):
    """Stores embedding tables as int8 with a scale for each row.

    1. `Gather(table [V, H], ids)` becomes `Cast(Gather(int8 [V, H], ids)) * Gather(scales [V, 1], ids)`: only the rows that a batch
       needs become float32.

    A table that anything but such a Gather reads stays as it is.
    """

    def call(self, model: ir.Model) -> Rewritten:
        gathers = [node for node in model.graph if _is_lookup(node)]
        for node in gathers:
            _as_int8(node)
        return Rewritten.of(model, len(gathers))


def _is_lookup(node: ir.Node) -> bool:
    if node.op_type != "Gather" or node.domain or attribute(node, "axis", 0) != 0 or node.inputs[0] is None:
        return False
    table = constant(node.inputs[0])
    if table is None or table.dtype != np.float32 or table.ndim != 2 or table.size < SMALLEST_TABLE or node.inputs[0].is_graph_output():
        return False
    return constant(node.inputs[1]) is None and all(_is_gather_of_rows(use.node, use.idx) for use in node.inputs[0].uses())


def _is_gather_of_rows(node: ir.Node, index: int) -> bool:
    return node.op_type == "Gather" and not node.domain and index == 0 and attribute(node, "axis", 0) == 0


def _as_int8(node: ir.Node) -> None:
    table, ids = node.inputs
    array = constant(table)
    assert table is not None
    assert array is not None
    scales = np.maximum(np.abs(array).max(1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    build = Builder(node)
    shape = known_dims(node.outputs[0])
    integers = build.initializer(np.rint(array / scales).astype(np.int8), f"{table.name}.int8")
    rows = build.node("Gather", [integers, ids], shape, dtype=ir.DataType.INT8, attributes={"axis": 0})
    floats = build.node("Cast", [rows], shape, dtype=ir.DataType.FLOAT, attributes={"to": int(ir.DataType.FLOAT)})
    scale = build.node("Gather", [build.initializer(scales, f"{table.name}.scale"), ids], [*shape[:-1], 1], attributes={"axis": 0})
    build.replace(node, build.node("Mul", [floats, scale], shape, name=node.outputs[0].name))
