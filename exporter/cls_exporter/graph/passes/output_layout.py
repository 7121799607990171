"""The pass that gives the graph the outputs of its layout."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, known_dims

SENTENCE_EMBEDDING = "sentence_embedding"
LAST_HIDDEN_STATE = "last_hidden_state"


class OutputLayout(ir.passes.InPlacePass):
    """Puts `last_hidden_state` in front of `sentence_embedding`, made of the same row.

    1. `standard`: `last_hidden_state` is the row as [B, 1, H].
    2. `broadcast`: the row expanded to [B, S, H], for consumers that can only mean-pool.
    3. `native`: no `last_hidden_state`.
    """

    def __init__(self, *, layout: str) -> None:
        self.layout = layout

    def call(self, model: ir.Model) -> Rewritten:
        if self.layout == "native" or any(output.name == LAST_HIDDEN_STATE for output in model.graph.outputs):
            return Rewritten.of(model, 0)
        embedding = next(output for output in model.graph.outputs if output.name == SENTENCE_EMBEDDING)
        node = embedding.producer()
        assert node is not None
        batch, width = known_dims(embedding)
        last = ir.node("Identity", [embedding])
        model.graph.append(last)
        build = Builder(last)
        row = build.node("Unsqueeze", [embedding, build.ints([1], "axis_1")], [batch, 1, width])
        if self.layout == "broadcast":
            row = _expanded(build, row, model.graph)
        row.name = LAST_HIDDEN_STATE
        model.graph.remove(last, safe=True)
        model.graph.outputs.insert(0, row)
        return Rewritten.of(model, 1)


def _expanded(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    batch, _, width = known_dims(row)
    mask = next(item for item in graph.inputs if item.name == "attention_mask")
    length = known_dims(mask)[1]
    count = build.node("Shape", [mask], [1], dtype=ir.DataType.INT64, attributes={"start": 1, "end": 2})
    one = build.initializer(np.array([1], dtype=np.int64), "one")
    target = build.node("Concat", [one, count, one], [3], dtype=ir.DataType.INT64, attributes={"axis": 0})
    return build.node("Expand", [row, target], [batch, length, width])
