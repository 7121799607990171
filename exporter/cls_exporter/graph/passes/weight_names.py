"""The pass that gives weights back the names that they have in the checkpoint."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Rewritten, constant

BIAS, WEIGHT = ".bias", ".weight"


class WeightNames(ir.passes.InPlacePass):
    """Names the weight of a projection after its bias.

    1. In `Add(MatMul(x, W), b)` with `b` named `layer.bias` and read by nobody else, `W` becomes `layer.weight`.

    The tracer transposes a Linear's weight to [in, out] and numbers the result (`val_87`); a graph is easier to read, and a report on
    one of its products easier to place, with the checkpoint's name.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node, model.graph) for node in model.graph if node.op_type == "Add" and not node.domain))


def _rewrite(add: ir.Node, graph: ir.Graph) -> bool:
    for product, bias in (add.inputs, tuple(add.inputs)[::-1]):
        matmul = product.producer() if product is not None else None
        if matmul is None or bias is None or matmul.op_type != "MatMul" or constant(bias) is None:
            continue
        weight, name = matmul.inputs[1], bias.name or ""
        if weight is None or not weight.is_initializer() or not name.endswith(BIAS) or len(list(bias.uses())) != 1:
            continue
        wanted = name.removesuffix(BIAS) + WEIGHT
        if wanted in graph.initializers or len(list(weight.uses())) != 1:
            continue
        weight.name = wanted
        return True
    return False
