"""The pass that makes one operator of a residual and its LayerNormalization."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import (
    MICROSOFT_DOMAIN,
    Builder,
    Rewritten,
    attribute,
    constant,
    known_dims,
    produced_by,
    single_consumer,
)


class SkipLayerNormFusion(ir.passes.InPlacePass):
    """Fuses a layer's residual into ONNX Runtime's `SkipLayerNormalization` (domain com.microsoft).

    1. `LayerNormalization(x W + skip)` over the last axis is `SkipLayerNormalization(x W, skip)`; a bias `x W + b` is its `bias` input.
    2. A sum that is read elsewhere too, as in a layer that normalizes first, is the operator's fourth output.

    Only a sum with a product in it is a layer's residual; the sum of embeddings stays.
    """

    def call(self, model: ir.Model) -> Rewritten:
        count = sum(_rewrite(node) for node in list(model.graph) if node.op_type == "LayerNormalization" and not node.domain)
        if count:
            model.graph.opset_imports[MICROSOFT_DOMAIN] = 1
        return Rewritten.of(model, count)


def _rewrite(norm: ir.Node) -> bool:
    add = produced_by(norm.inputs[0], "Add")
    if add is None or len(norm.outputs) != 1 or attribute(norm, "axis", -1) not in (-1, 2):
        return False
    total = add.outputs[0]
    shape = known_dims(total)
    constants = all(constant(item) is not None for item in norm.inputs[1:])
    if len(shape) != 3 or not constants or total.is_graph_output() or any(item is None or known_dims(item) != shape for item in add.inputs):
        return False
    residual = _residual(add)
    if residual is None:
        return False
    product, skip, bias = residual
    gamma = norm.inputs[1]
    beta = norm.inputs[2] if len(norm.inputs) > 2 else None
    build = Builder(norm)
    epsilon = norm.attributes["epsilon"].as_float() if "epsilon" in norm.attributes else 1e-5
    inputs = [product, skip, gamma, *([beta, bias] if bias is not None else [beta] if beta is not None else [])]
    fused = build.node("SkipLayerNormalization", inputs, shape, attributes={"epsilon": epsilon}, domain=MICROSOFT_DOMAIN)
    if single_consumer(total) is None:
        _give_sum(fused, total)
    build.replace(norm, fused)
    return True


def _residual(add: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value | None] | None:
    """(x W, skip, bias or None) where `add` is `(x W + bias) + skip` in any order."""
    first, second = add.inputs
    for product, skip in ((first, second), (second, first)):
        assert product is not None
        assert skip is not None
        biased = produced_by(product, "Add")
        if biased is not None and single_consumer(product) is not None:
            for inner, bias in (biased.inputs, tuple(biased.inputs)[::-1]):
                array = constant(bias)
                if array is not None and array.ndim == 1 and produced_by(inner, "MatMul") is not None:
                    assert inner is not None
                    return inner, skip, bias
        if produced_by(product, "MatMul") is not None:
            return product, skip, None
    return None


def _give_sum(fused: ir.Value, total: ir.Value) -> None:
    """Rule 2: lets the other readers of `total` read output 3. Outputs 1 and 2 (mean, variance) get no name, so they are not made."""
    node = fused.producer()
    assert node is not None
    node.resize_outputs(4)
    for unused in node.outputs[1:3]:
        unused.name = ""
    made = node.outputs[3]
    made.shape, made.type = total.shape, total.type
    total.replace_all_uses_with(made)
