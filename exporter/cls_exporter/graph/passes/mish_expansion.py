"""The pass that spells Mish out, for which GPUs have no kernel."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, known_dims


class MishExpansion(ir.passes.InPlacePass):
    """Makes three operators of ONNX's `Mish`, each of which ONNX Runtime's CUDA provider has.

    1. `Mish(x)` is `x tanh(Softplus(x))`.

    CPUs have the one operator, so the other variants keep it. Source: Misra 2019, arXiv:1908.08681.
    """

    def call(self, model: ir.Model) -> Rewritten:
        mishes = [node for node in model.graph if node.op_type == "Mish" and not node.domain]
        for node in mishes:
            _rewrite(node)
        return Rewritten.of(model, len(mishes))


def _rewrite(mish: ir.Node) -> None:
    x = mish.inputs[0]
    shape = known_dims(mish.outputs[0])
    build = Builder(mish)
    gate = build.node("Tanh", [build.node("Softplus", [x], shape)], shape)
    build.replace(mish, build.node("Mul", [x, gate], shape))
