"""The pass that takes shape arithmetic out of the graph."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, attribute, constant, dims, known_dims, reshape_target


class ConstantReshapes(ir.passes.InPlacePass):
    """Gives every Reshape a constant target where one can say it.

    1. A dimension that the input has at the same place is copied (0), one that it has not is left to the engine (-1).
    2. A Reshape that changes nothing is dropped.

    The tracer computes targets from `Shape`, `Gather` and `Concat`; engines and the other passes read constants.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Reshape" and not node.domain))


def _rewrite(node: ir.Node) -> bool:
    source, output = node.inputs[0], node.outputs[0]
    if source is None or dims(source) is None or dims(output) is None:
        return False
    unchanged = known_dims(source) == known_dims(output) and not output.is_graph_output()
    if constant(node.inputs[1]) is not None and not attribute(node, "allowzero", 0) and not unchanged:
        return False
    target = reshape_target(known_dims(source), known_dims(output))
    if target is None:
        return False
    build = Builder(node)
    if unchanged:
        build.replace(node, source)
        return True
    node.replace_input_with(1, build.shape_constant(target))
    node.attributes.pop("allowzero", None)
    return True
