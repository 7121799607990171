"""The pass that lets operators broadcast by themselves."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Rewritten, dims


class BroadcastElimination(ir.passes.InPlacePass):
    """Drops an Expand in front of an Add, Mul, Sub, Div or Where that broadcasts anyway.

    1. `Add(x, Expand(y, shape))` is `Add(x, y)` where x has every dimension of the result.

    A position bias [1, A, S, S] that was expanded to [B, A, S, S] is then read once, not B times.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node) for node in list(model.graph)))


def _rewrite(node: ir.Node) -> int:
    if node.op_type not in {"Add", "Sub", "Mul", "Div", "Where"} or node.domain:
        return 0
    result = dims(node.outputs[0])
    count = 0
    for index, value in enumerate(node.inputs):
        expand = value.producer() if value is not None else None
        others = [item for place, item in enumerate(node.inputs) if place != index and item is not None]
        if expand is None or expand.op_type != "Expand" or expand.domain or result is None:
            continue
        if any(dims(item) == result for item in others):
            node.replace_input_with(index, expand.inputs[0])
            count += 1
    return count
