"""The pass that scales attention's query before its product, where the product could still overflow."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, constant_scalar, known_dims, single_consumer

# A factor passes through these unchanged, from the output to input 0.
_KEEP_A_FACTOR = frozenset({"Transpose", "Reshape", "Unsqueeze", "Squeeze", "Slice", "Identity"})
_BETWEEN = _KEEP_A_FACTOR | {"GatherElements"}


class AttentionScale(ir.passes.InPlacePass):
    """Moves a constant factor from behind a product of two activations to in front of it.

    1. `(q k^T) * s` and `(q k^T) / (1 / s)` become `(q * s) k^T`, also where only the layout changes, or elements are picked, between.
    2. Where q is a projection that nobody else reads, `(x W + b) * s` becomes `x (W * s) + b * s`, so that no operator is left of it.
    3. Where q was scaled before the product already, rule 2 holds as well, whatever the layout.

    A factor that is not smaller than 1 in size stays: it would make the product's input larger, not its output smaller.
    """

    def call(self, model: ir.Model) -> Rewritten:
        scales = [node for node in model.graph if node.op_type in {"Mul", "Div"} and not node.domain]
        return Rewritten.of(model, sum(_rewrite(node) or _fold(node) for node in scales))


def _rewrite(node: ir.Node) -> bool:
    scores, factor = _scaled(node)
    product = None if scores is None else _product(scores)
    if scores is None or product is None or not abs(factor) < 1:
        return False
    query = product.inputs[0]
    assert query is not None
    if not _scale_projection(query, factor):
        build = Builder(product)
        scale = build.initializer(np.array(factor, dtype=np.float32), "attention_scale")
        product.replace_input_with(0, build.node("Mul", [query, scale], known_dims(query)))
    Builder(node).replace(node, scores)
    return True


def _fold(node: ir.Node) -> bool:
    """Rule 3."""
    query, factor = _scaled(node)
    product = _product_of(node.outputs[0])
    if query is None or product is None or not abs(factor) < 1 or not _scale_projection(query, factor):
        return False
    Builder(node).replace(node, query)
    return True


def _product_of(query: ir.Value) -> ir.Node | None:
    """The MatMul of two activations that reads `query` first, if each value on the way has one reader."""
    node = single_consumer(query)
    while node is not None and node.op_type in _KEEP_A_FACTOR and not node.domain and node.inputs[0] is query:
        query = node.outputs[0]
        node = single_consumer(query)
    is_product = node is not None and node.op_type == "MatMul" and not node.domain and node.inputs[0] is query
    return node if is_product and all(constant(item) is None for item in node.inputs) else None  # type: ignore[union-attr]


def _scaled(node: ir.Node) -> tuple[ir.Value | None, float]:
    """(x, s) where `node` is `x * s`, in either order, or `x / (1 / s)`."""
    first, second = node.inputs
    factor = constant_scalar(second)
    if node.op_type == "Mul" and factor is None:
        first, factor = second, constant_scalar(first)
    if factor is None or (node.op_type == "Div" and factor == 0):
        return None, 1.0
    return first, factor if node.op_type == "Mul" else 1.0 / factor


def _product(scores: ir.Value) -> ir.Node | None:
    """The MatMul of two activations that `scores` comes from, if each value on the way has one reader."""
    value: ir.Value | None = scores
    while value is not None and single_consumer(value) is not None:
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "MatMul":
            return node if all(constant(item) is None for item in node.inputs) else None
        if node.op_type not in _BETWEEN:
            return None
        value = node.inputs[0]
    return None


def _scale_projection(query: ir.Value, factor: float) -> bool:
    """Rule 2: scales the constants of the projection behind `query`."""
    value: ir.Value | None = query
    while value is not None and single_consumer(value) is not None:
        node = value.producer()
        if node is None or node.domain:
            return False
        weight = constant(node.inputs[1]) if node.op_type in {"Add", "MatMul"} else None
        if node.op_type == "Add" and weight is not None and weight.ndim == 1:
            product = node.inputs[0].producer() if node.inputs[0] is not None else None
            if product is None or not _is_projection(product) or single_consumer(product.outputs[0]) is None:
                return False
            _scale_constant(node, factor)
            _scale_constant(product, factor)
            return True
        if _is_projection(node) and not _is_wider(node):
            _scale_constant(node, factor)
            return True
        if node.op_type not in _KEEP_A_FACTOR and not _is_projection(node):
            return False
        value = node.inputs[0]
    return False


def _is_projection(node: ir.Node) -> bool:
    return node.op_type == "MatMul" and not node.domain and constant(node.inputs[1]) is not None


def _is_wider(node: ir.Node) -> bool:
    """Whether the MatMul's weight is one for each head; the query's own projection, in front of it, has the smaller numbers to scale."""
    weight = constant(node.inputs[1])
    return weight is not None and weight.ndim > 2


def _scale_constant(node: ir.Node, factor: float) -> None:
    """Replaces input 1, a constant, by its scaled copy; nodes that share a constant share the copy."""
    value = node.inputs[1]
    array = constant(value)
    assert value is not None
    assert array is not None
    scaled = (array.astype(np.float64) * factor).astype(array.dtype)
    node.replace_input_with(1, Builder(node).initializer(scaled, f"{value.name}.scaled"))
