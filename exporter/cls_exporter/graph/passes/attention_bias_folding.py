"""The pass that takes the biases of keys and values out of an attention."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.passes.attention_fusion import attention_of
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, produced_by, single_consumer

_VIEWS = frozenset({"Reshape", "Transpose"})


class AttentionBiasFolding(ir.passes.InPlacePass):
    """Spares the additions to keys and values of every attention over all tokens.

    1. `softmax(q (x W_k + b_k)^T)` is `softmax(q (x W_k)^T)`: `q b_k^T` is the same number for every key, which a softmax does not see.
    2. `p (x W_v + b_v) W_o + b_o` is `p (x W_v) W_o + (b_v W_o + b_o)`: the weights `p` of a softmax sum to 1. The new bias is computed in
       float64 and rounded once.

    A bias stays where its sum is read elsewhere too, or where something other than a change of layout follows it, as a rotation of keys.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Softmax" and not node.domain))


def _rewrite(softmax: ir.Node) -> int:
    attention = attention_of(softmax)
    if attention is None:
        return 0
    return _drop_key_bias(attention.keys) + _move_value_bias(attention.values, attention.output.outputs[0])


def _drop_key_bias(keys: ir.Value) -> bool:
    """Rule 1."""
    add = biased_projection(keys)
    if add is None:
        return False
    Builder(add).replace(add, product_and_bias(add)[0])
    return True


def _move_value_bias(values: ir.Value, context: ir.Value) -> bool:
    """Rule 2."""
    add = biased_projection(values)
    product = single_consumer(context)
    if add is None or product is None or product.op_type != "MatMul" or product.domain or product.inputs[0] is not context:
        return False
    weight, output = constant(product.inputs[1]), single_consumer(product.outputs[0])
    if weight is None or weight.ndim != 2 or output is None or _biased(output) is None:
        return False
    projected, bias = product_and_bias(add)
    _, output_bias = product_and_bias(output)
    folded = _array(bias).astype(np.float64) @ weight.astype(np.float64) + _array(output_bias).astype(np.float64)
    made = Builder(output).initializer(folded.astype(np.float32), f"{output_bias.name}.folded")
    output.replace_input_with(list(output.inputs).index(output_bias), made)
    Builder(add).replace(add, projected)
    return True


def biased_projection(value: ir.Value | None) -> ir.Node | None:
    """The Add of a bias to a product, of which `value` is a view; None where it is something else, or is read elsewhere too."""
    while value is not None and single_consumer(value) is not None:
        node = value.producer()
        if node is None or node.domain:
            return None
        if node.op_type == "Add":
            return _biased(node)
        if node.op_type not in _VIEWS:
            return None
        value = node.inputs[0]
    return None


def _biased(add: ir.Node) -> ir.Node | None:
    """`add` where it is `x W + b`."""
    if add.op_type != "Add" or add.domain:
        return None
    for product, bias in (add.inputs, tuple(add.inputs)[::-1]):
        array = constant(bias)
        if array is not None and array.ndim == 1 and produced_by(product, "MatMul") is not None:
            return add
    return None


def product_and_bias(add: ir.Node) -> tuple[ir.Value, ir.Value]:
    """(x W, b) of `x W + b`."""
    first, second = add.inputs
    assert first is not None
    assert second is not None
    return (second, first) if constant(first) is not None else (first, second)


def _array(value: ir.Value) -> NDArray[np.generic]:
    array = constant(value)
    assert array is not None
    return array
