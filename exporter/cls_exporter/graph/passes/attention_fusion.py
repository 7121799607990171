"""The pass that makes one operator of an attention over all tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.padding_mask import is_plain_mask
from cls_exporter.graph.passes.rewriting import (
    MICROSOFT_DOMAIN,
    Builder,
    Rewritten,
    attribute,
    known_dims,
    permutation,
    produced_by,
    single_consumer,
)

LOWEST = float(np.finfo(np.float32).min)


@dataclass(frozen=True)
class Attention:
    """`softmax(q k^T + bias + mask) v`, heads apart: q, k and v [B, S, A, D] or views of it, the output [B, S, A*D]."""

    query: ir.Value
    keys: ir.Value
    values: ir.Value
    biases: tuple[ir.Value, ...]
    mask: ir.Value | None
    output: ir.Node


class AttentionFusion(ir.passes.InPlacePass):
    """Fuses an attention over all tokens into ONNX Runtime's `MultiHeadAttention` (domain com.microsoft).

    1. `Reshape(Transpose(softmax(q k^T + terms) v))` is `MultiHeadAttention(q, k, v)` with scale 1: q has been scaled before.
    2. A plain padding mask among the terms is `key_padding_mask`, the tokens that count as int32 [B, S]. The operator masks its scores in
       float32, by the lowest number there is, so no mask constant is ever a half.
    3. Other terms, [B or 1, A or 1, S, S], are added up as `attention_bias`.
    4. Heads that were split from [B, S, A*D] are read there; heads that were rotated are moved back to [B, S, A*D] first.

    An attention with one query row stays: it reads keys and values that were never projected.
    """

    def call(self, model: ir.Model) -> Rewritten:
        count = sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Softmax" and not node.domain)
        if count:
            model.graph.opset_imports[MICROSOFT_DOMAIN] = 1
        return Rewritten.of(model, count)


def _rewrite(softmax: ir.Node) -> bool:
    attention = attention_of(softmax)
    if attention is None:
        return False
    output = attention.output.outputs[0]
    heads = known_dims(attention.query)[1]
    assert isinstance(heads, int)
    build = Builder(attention.output)
    inputs: list[ir.Value | None] = [_rows(build, value) for value in (attention.query, attention.keys, attention.values)]
    if attention.mask is not None or attention.biases:
        inputs += [None, None if attention.mask is None else _key_padding_mask(build, attention.mask)]
    if attention.biases:
        inputs.append(_sum(build, attention.biases))
    attributes = {"num_heads": heads, "scale": 1.0, "mask_filter_value": LOWEST}
    fused = build.node("MultiHeadAttention", inputs, known_dims(output), attributes=attributes, domain=MICROSOFT_DOMAIN)
    build.replace(attention.output, fused)
    return True


def attention_of(softmax: ir.Node) -> Attention | None:
    """Rule 1: the attention over all tokens that `softmax` is in."""
    weights = softmax.outputs[0]
    if attribute(softmax, "axis", -1) not in (-1, 3) or softmax.inputs[0] is None or len(known_dims(weights)) != 4:
        return None
    batch, heads, rows, length = known_dims(weights)
    if rows != length or not isinstance(heads, int):
        return None
    terms = _terms(softmax.inputs[0])
    products = [term for term in terms if produced_by(term, "MatMul") is not None and known_dims(term) == (batch, heads, rows, length)]
    if len(products) != 1 or single_consumer(products[0]) is None:
        return None
    query, keys = products[0].producer().inputs  # type: ignore[union-attr]
    context = single_consumer(weights)
    output = _merged_heads(context) if context is not None and context.inputs[0] is weights else None
    if context is None or output is None or query is None or keys is None or context.inputs[1] is None:
        return None
    masks = [term for term in terms if is_plain_mask(term)]
    biases = tuple(term for term in terms if term is not products[0] and term not in masks)
    whole = all(known_dims(term)[2:] == (length, length) and len(known_dims(term)) == 4 for term in biases)
    if len(masks) > 1 or not whole:
        return None
    transposed = produced_by(keys, "Transpose")
    if transposed is None or transposed.inputs[0] is None:
        return None
    if permutation(transposed) == (0, 1, 3, 2):
        heads_first = transposed.inputs[0]
    elif permutation(transposed) == (0, 2, 3, 1):
        heads_first = keys  # [B, A, D, S]; `_rows` reads what it was transposed from
    else:
        return None
    return Attention(query, heads_first, context.inputs[1], biases, masks[0] if masks else None, output)


def _terms(scores: ir.Value) -> list[ir.Value]:
    """What is added up to `scores`, sums that are read elsewhere kept whole."""
    add = produced_by(scores, "Add")
    if add is None or single_consumer(scores) is None or None in add.inputs:
        return [scores]
    return [term for item in add.inputs if item is not None for term in _terms(item)]


def _merged_heads(context: ir.Node) -> ir.Node | None:
    """The Reshape to [B, S, A*D] behind `context` [B, A, S, D]."""
    if context.op_type != "MatMul" or context.domain:
        return None
    swap = single_consumer(context.outputs[0])
    if swap is None or swap.op_type != "Transpose" or permutation(swap) != (0, 2, 1, 3):
        return None
    merge = single_consumer(swap.outputs[0])
    if merge is None or merge.op_type != "Reshape" or len(known_dims(merge.outputs[0])) != 3:
        return None
    return merge if known_dims(merge.outputs[0])[:2] == known_dims(swap.outputs[0])[:2] else None


def _rows(build: Builder, value: ir.Value) -> ir.Value:
    """Rule 4: [B, S, A*D] for [B, A, S, D], or for keys as [B, A, D, S]."""
    swap = produced_by(value, "Transpose")
    split = swap.inputs[0] if swap is not None and permutation(swap) in ((0, 2, 1, 3), (0, 2, 3, 1)) else None
    if split is None:
        split = build.transpose(value, [0, 2, 1, 3])
    batch, length, heads, width = known_dims(split)
    assert isinstance(heads, int)
    assert isinstance(width, int)
    reshape = produced_by(split, "Reshape")
    if reshape is not None and reshape.inputs[0] is not None and known_dims(reshape.inputs[0]) == (batch, length, heads * width):
        return reshape.inputs[0]
    return build.reshape(split, [batch, length, heads * width])


def _key_padding_mask(build: Builder, mask: ir.Value) -> ir.Value:
    """Rule 2: the tokens that count, int32 [B, S], from the mask `Where(Unsqueeze(kept), 0, lowest)`."""
    where = produced_by(mask, "Where")
    row = produced_by(where.inputs[0], "Unsqueeze") if where is not None else None
    kept = row.inputs[0] if row is not None else None
    assert kept is not None
    for use in kept.uses():
        if use.node.op_type == "Cast" and use.node.outputs[0].dtype == ir.DataType.INT32:
            return use.node.outputs[0]
    return build.node("Cast", [kept], known_dims(kept), dtype=ir.DataType.INT32, attributes={"to": int(ir.DataType.INT32)})


def _sum(build: Builder, biases: tuple[ir.Value, ...]) -> ir.Value:
    total, *others = biases
    for bias in others:
        shape = [one if one == other or other == 1 else other for one, other in zip(known_dims(total), known_dims(bias), strict=True)]
        total = build.node("Add", [total, bias], shape)
    return total
