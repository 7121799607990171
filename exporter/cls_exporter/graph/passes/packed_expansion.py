"""The pass that spells out the operators of a packed graph that only GPUs have, so that a CPU computes what a GPU will."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Builder, Rewritten, known_dims

LOWEST = float(np.finfo(np.float32).min)
# The names of lengths that only the graph knows: B * S, the tokens of texts, the rows behind them.
_PADDED, _TOKENS, _BEHIND = "padded_tokens", "text_tokens", "rows_behind"


class PackedExpansion(ir.passes.InPlacePass):
    """Makes operators of ONNX Runtime's CPU provider of those that its CUDA provider alone has (domain com.microsoft).

    1. `RestorePadding(rows, token_offset)` is a ScatterND of row t to place `token_offset[t]` of zeros [B * S, H], reshaped to [B, S, H].
    2. `PackedMultiHeadAttention(q, k, v, bias, token_offset, cu_seqlens, attention_bias)` puts the first `cu_seqlens[B]` rows of q, k and v
       at their places in the same way, and is `MultiHeadAttention` over them, whose mask has the lengths that `cu_seqlens` says; its rows
       are gathered from the same places. The result is right only where `token_offset` and `cu_seqlens` say the same.
    3. Rows behind `cu_seqlens[B]` are no text's, and a GPU does not write them. They are NaN: whatever reads them shows.

    An attention whose query, key and value are one tensor stays; a packed graph has them apart.
    """

    def call(self, model: ir.Model) -> Rewritten:
        layouts: dict[tuple[ir.Value, ir.Value], _Layout] = {}
        count = sum(_rewrite(node, layouts) for node in list(model.graph) if node.domain == MICROSOFT_DOMAIN)
        return Rewritten.of(model, count)


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of texts are, the same for every layer: made once for a pair of `token_offset` and `cu_seqlens`.

    Attributes:
        end: int64 [1], the number of all texts' tokens.
        places: int64 [tokens, 1], the place of each in B * S.
        mask: int32 [B, S], 1 for a token.
    """

    end: ir.Value
    places: ir.Value
    mask: ir.Value


def _rewrite(node: ir.Node, layouts: dict[tuple[ir.Value, ir.Value], _Layout]) -> bool:
    if node.op_type == "RestorePadding":
        _restore_padding(node)
        return True
    if node.op_type == "PackedMultiHeadAttention" and None not in node.inputs[:3]:
        _packed_attention(node, layouts)
        return True
    return False


def _restore_padding(node: ir.Node) -> None:
    """Rule 1. Rows that have no place are left out, as the operator leaves them out."""
    rows, token_offset = node.inputs
    assert rows is not None
    assert token_offset is not None
    build = Builder(node)
    places = _places(build, token_offset)
    room, count = (_size(build, value, axis=0) for value in (places, rows))
    build.replace(node, _scattered(build, _first(build, rows, room), _first(build, places, count), token_offset))


def _packed_attention(node: ir.Node, layouts: dict[tuple[ir.Value, ir.Value], _Layout]) -> None:
    """Rules 2 and 3."""
    query, key, value, bias, token_offset, cu_seqlens, *others = node.inputs
    assert token_offset is not None
    assert cu_seqlens is not None
    assert value is not None
    build = Builder(node)
    at = layouts.get((token_offset, cu_seqlens))
    if at is None:
        at = layouts[token_offset, cu_seqlens] = _layout(build, token_offset, cu_seqlens)
    padded = [_scattered(build, _first(build, item, at.end), at.places, token_offset) for item in (query, key, value) if item is not None]
    width = _width(value)
    attributes: dict[str, int | float] = {"num_heads": node.attributes["num_heads"].as_int(), "mask_filter_value": LOWEST}
    if "scale" in node.attributes:
        attributes["scale"] = node.attributes["scale"].as_float()
    inputs = [*padded, bias, at.mask, *others]
    shape = (*known_dims(token_offset), width)
    attention = build.node("MultiHeadAttention", inputs, shape, attributes=attributes, domain=MICROSOFT_DOMAIN)
    rows = build.node("Reshape", [attention, build.shape_constant([-1, width])], [_PADDED, width])
    of_texts = build.node("GatherND", [rows, at.places], [_TOKENS, width])
    behind = build.node("Sub", [_size(build, value, axis=0), at.end], [1])
    unwritten = _filled(build, value, np.nan, behind, _BEHIND)
    build.replace(node, build.node("Concat", [of_texts, unwritten], known_dims(value), attributes={"axis": 0}))


def _layout(build: Builder, token_offset: ir.Value, cu_seqlens: ir.Value) -> _Layout:
    batch, length = known_dims(token_offset)
    first, second, last, behind = (build.ints([place], f"place_{name}") for place, name in ((0, "0"), (1, "1"), (-1, "n"), (2**31, "end")))
    bounds = build.node("Cast", [cu_seqlens], known_dims(cu_seqlens), dtype=ir.DataType.INT64, attributes={"to": int(ir.DataType.INT64)})
    ends, begins = build.node("Slice", [bounds, second, behind], [batch]), build.node("Slice", [bounds, first, last], [batch])
    lengths = build.node("Unsqueeze", [build.node("Sub", [ends, begins], [batch]), second], [batch, 1])
    width = build.node("Squeeze", [_size(build, token_offset, axis=1)], [])
    zero, one = (build.initializer(np.array(number, dtype=np.int64), f"number_{number}") for number in (0, 1))
    is_token = build.node("Less", [build.node("Range", [zero, width, one], [length]), lengths], [batch, length], dtype=ir.DataType.BOOL)
    mask = build.node("Cast", [is_token], [batch, length], dtype=ir.DataType.INT32, attributes={"to": int(ir.DataType.INT32)})
    end = build.node("Slice", [bounds, last, behind], [1])
    return _Layout(end=end, places=_first(build, _places(build, token_offset), end), mask=mask)


def _places(build: Builder, token_offset: ir.Value) -> ir.Value:
    """`token_offset` as indices for ScatterND: int64 [B * S, 1]."""
    flat = build.node("Reshape", [token_offset, build.shape_constant([-1, 1])], [_PADDED, 1])
    return build.node("Cast", [flat], [_PADDED, 1], dtype=ir.DataType.INT64, attributes={"to": int(ir.DataType.INT64)})


def _scattered(build: Builder, rows: ir.Value, places: ir.Value, token_offset: ir.Value) -> ir.Value:
    """`rows` [n, H] at their `places` [n, 1] of zeros, as [B, S, H]."""
    width = _width(rows)
    shape = (*known_dims(token_offset), width)
    room = build.node("Size", [token_offset], [], dtype=ir.DataType.INT64)
    empty = _filled(build, rows, 0.0, build.node("Unsqueeze", [room, build.ints([0], "place_0")], [1]), _PADDED)
    placed = build.node("ScatterND", [empty, places, rows], [_PADDED, width])
    target = build.node("Shape", [token_offset], [2], dtype=ir.DataType.INT64)
    target = build.node("Concat", [target, build.ints([width], f"width_{width}")], [3], attributes={"axis": 0})
    return build.node("Reshape", [placed, target], shape)


def _filled(build: Builder, like: ir.Value, number: float, count: ir.Value, symbol: str) -> ir.Value:
    """`count` rows as wide as those of `like`, all of one number."""
    kind = like.dtype
    assert kind is not None
    width = _width(like)
    one = build.initializer(np.array(number, dtype=kind.numpy()), f"all_{number}_{kind.name.lower()}")
    shape = build.node("Concat", [count, build.ints([width], f"width_{width}")], [2], attributes={"axis": 0})
    return build.node("Expand", [one, shape], [symbol, width])


def _first(build: Builder, rows: ir.Value, count: ir.Value) -> ir.Value:
    """The first `count` rows, or all where there are fewer."""
    return build.node("Slice", [rows, build.ints([0], "place_0"), count], [f"first_{rows.name}_{count.name}", *known_dims(rows)[1:]])


def _size(build: Builder, value: ir.Value, *, axis: int) -> ir.Value:
    """How long an axis is, int64 [1]."""
    return build.node("Shape", [value], [1], dtype=ir.DataType.INT64, attributes={"start": axis, "end": axis + 1})


def _width(rows: ir.Value) -> int:
    width = known_dims(rows)[-1]
    assert isinstance(width, int), "the width of a token's row is constant"
    return width
