"""How large the numbers become that folding an attention's biases changes, by arithmetic from what was measured without it."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.passes.attention_bias_folding import biased_projection, product_and_bias
from cls_exporter.graph.passes.attention_fusion import Attention, attention_of
from cls_exporter.graph.passes.half_precision import computed_in_float16
from cls_exporter.graph.passes.rewriting import constant, known_dims, produced_by, single_consumer


def bound_when_folded(model: ir.Model, *, largest: float, tables: Collection[str]) -> float:
    """No number that float16 holds is larger than this once `AttentionBiasFolding` has been applied to `model`.

    For hidden states x and queries q within `largest`, and a softmax's weights, which sum to 1:

    - keys and values: `|x W_j|` is at most `largest` times the sum of `|W_ij|` over i; where x is `g z + b` of a LayerNormalization,
      whose z has a length of sqrt(H) at most, also sqrt(H) times the length of `g W_j` and `|b W_j|`. The context is a mean of values;
    - the output's product: the value's bias leaves it, `|p (x W_v) W_o|` is at most `largest` and the largest `|b_v W_o|`;
    - scores: the key's bias leaves them, `|q k'|` is at most `largest` and `largest` times the sum of a head's `|b_k|`.

    Args:
        model: float32, its biases not folded.
        largest: the largest size of any number that float16 holds of the same graph, by `half_range.check_range`. A key's or value's
            product may be missing in it: the last layer of a graph with one row has none.
        tables: as `HalfPrecision` has them.

    Returns:
        The bound, infinite where this arithmetic says nothing of an attention.
    """
    measured = set(computed_in_float16(model, tables=tables))
    attentions = [attention_of(node) for node in model.graph if node.op_type == "Softmax" and not node.domain]
    return max([largest, *(math.inf if one is None else _bound(one, largest, measured) for one in attentions)])


def _bound(attention: Attention, largest: float, measured: Collection[ir.Value]) -> float:
    keys, values = biased_projection(attention.keys), biased_projection(attention.values)
    product = single_consumer(attention.output.outputs[0])
    output_weight = None if product is None or product.op_type != "MatMul" else constant(product.inputs[1])
    heads = known_dims(attention.query)[1]
    if keys is None or values is None or output_weight is None or not isinstance(heads, int):
        return math.inf
    bounds = [largest]
    for add in (keys, values):
        multiplied = produced_by(product_and_bias(add)[0], "MatMul")
        weight = None if multiplied is None else constant(multiplied.inputs[1])
        if multiplied is None or weight is None or multiplied.inputs[0] not in measured:
            return math.inf
        bounds.append(_of_product(multiplied.inputs[0], weight.astype(np.float64), largest))
    key_bias, value_bias = (_bias(add) for add in (keys, values))
    bounds.append(largest + float(np.abs(value_bias @ output_weight.astype(np.float64)).max()))
    bounds.append(largest * (1 + float(np.abs(key_bias).reshape(heads, -1).sum(1).max())))
    return max(bounds)


def _of_product(hidden: ir.Value | None, weight: NDArray[np.float64], largest: float) -> float:
    columns = largest * np.abs(weight).sum(0)
    norm = produced_by(hidden, "LayerNormalization")
    parts = [] if norm is None else [array for array in map(constant, norm.inputs[1:]) if array is not None]
    if [array.shape for array in parts] == [weight.shape[:1]] * 2:
        scale, shift = (array.astype(np.float64) for array in parts)
        length = math.sqrt(len(weight)) * np.linalg.norm(scale[:, None] * weight, axis=0)
        columns = np.minimum(columns, length + np.abs(shift @ weight))
    return float(columns.max())


def _bias(add: ir.Node) -> NDArray[np.float64]:
    array = constant(product_and_bias(add)[1])
    assert array is not None
    return array.astype(np.float64)
