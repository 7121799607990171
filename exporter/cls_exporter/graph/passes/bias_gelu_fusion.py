"""The pass that makes one operator of a bias and the GELU behind it."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Builder, Rewritten, constant, known_dims, produced_by, single_consumer

_FUSED = {"none": "BiasGelu", "tanh": "FastGelu"}


class BiasGeluFusion(ir.passes.InPlacePass):
    """Fuses the bias of a product into the activation behind it, by ONNX Runtime's operators (domain com.microsoft).

    1. `Gelu(x W + b)` is `BiasGelu(x W, b)`.
    2. `Gelu(x W + b, approximate="tanh")` is `FastGelu(x W, b)`, the same approximation.

    Other activations have no such operator, and a sum that is read elsewhere too stays.
    """

    def call(self, model: ir.Model) -> Rewritten:
        count = sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Gelu" and not node.domain)
        if count:
            model.graph.opset_imports[MICROSOFT_DOMAIN] = 1
        return Rewritten.of(model, count)


def _rewrite(gelu: ir.Node) -> bool:
    total = gelu.inputs[0]
    add = produced_by(total, "Add")
    if total is None or add is None or single_consumer(total) is None:
        return False
    approximate = gelu.attributes["approximate"].as_string() if "approximate" in gelu.attributes else "none"
    for product, bias in (add.inputs, tuple(add.inputs)[::-1]):
        array = constant(bias)
        if array is not None and array.shape == known_dims(total)[-1:] and produced_by(product, "MatMul") is not None:
            build = Builder(gelu)
            fused = build.node(_FUSED[approximate], [product, bias], known_dims(gelu.outputs[0]), domain=MICROSOFT_DOMAIN)
            build.replace(gelu, fused)
            return True
    return False
