"""Counts a graph's multiply-adds: the work that a pass saves, as a number that no timer blurs."""

from __future__ import annotations

import math

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Dim, attribute, known_dims
from cls_runtime.bundle.manifest import MultiplyAdds

_FUNCTIONS = {"Min": sympy.Min, "Max": sympy.Max}
_PRODUCTS_OF_INTEGERS = {"MatMulInteger", "MatMulIntegerToFloat"}
# Where a formula is held to the count: short and long texts, one and several. From some length on, local attention is another formula.
_CHECKED_AT = ((1, 2), (3, 7), (2, 33), (1, 200), (5, 512))


def multiply_adds(model: ir.Model, *, batch_size: int, sequence_length: int) -> int:
    """Multiply-adds of every matrix product of `model` for a batch of B texts of S tokens.

    Raises:
        GraphError: a product's shape is not known.
    """
    return sum(_by_arithmetic(model, batch_size, sequence_length).values())


def multiply_add_formulas(model: ir.Model) -> dict[str, MultiplyAdds]:
    """The same as a formula of B and S for each arithmetic, `fp32` and `int8`; empty where the count follows no such formula.

    Raises:
        GraphError: a product's shape is not known.
    """
    counts = {at: _by_arithmetic(model, *at) for at in ((1, 1), (2, 1), (1, 3), (1, 5), *_CHECKED_AT)}
    formulas: dict[str, MultiplyAdds] = {}
    for kind in sorted({kind for by_kind in counts.values() for kind in by_kind}):
        one, two, three, five = (counts[at].get(kind, 0) for at in ((1, 1), (2, 1), (1, 3), (1, 5)))
        pair = ((five - three) // 2 - (three - one) // 2) // 4
        token = (three - one) // 2 - 4 * pair
        formulas[kind] = MultiplyAdds(per_run=2 * one - two, per_text=two - one - token - pair, per_token=token, per_token_pair=pair)
        if any(formulas[kind].count(*at) != by_kind.get(kind, 0) for at, by_kind in counts.items()):
            return {}
    return formulas


def _by_arithmetic(model: ir.Model, batch_size: int, sequence_length: int) -> dict[str, int]:
    symbols = {"batch_size": batch_size, "sequence_length": sequence_length}
    counts: dict[str, int] = {}
    for node in model.graph:
        if count := _of_node(node, symbols):
            kind = "int8" if _is_int8(node) else "fp32"
            counts[kind] = counts.get(kind, 0) + count
    return counts


def _is_int8(node: ir.Node) -> bool:
    """Whether an engine computes the product in int8: both factors come from int8 values."""
    factors = [value.producer() for value in node.inputs[:2] if value is not None]
    return node.op_type in _PRODUCTS_OF_INTEGERS or all(item is not None and item.op_type == "DequantizeLinear" for item in factors)


def _of_node(node: ir.Node, symbols: dict[str, int]) -> int:
    if node.op_type in {"MatMul", "Gemm", "MatMulInteger", "MatMulIntegerToFloat"}:
        left = known_dims(node.inputs[0])  # type: ignore[arg-type]
        inner = left[0] if node.op_type == "Gemm" and attribute(node, "transA", 0) else left[-1]
        return _size(known_dims(node.outputs[0]), symbols) * _size((inner,), symbols)
    if node.op_type == "MultiHeadAttention" and node.domain == MICROSOFT_DOMAIN:
        query, keys = (known_dims(value) for value in node.inputs[:2] if value is not None)
        return 2 * _size(query, symbols) * _size((keys[1],), symbols)
    return 0


def _size(shape: tuple[Dim, ...], symbols: dict[str, int]) -> int:
    return math.prod(dim if isinstance(dim, int) else _evaluate(dim, symbols) for dim in shape)


def _evaluate(dim: str, symbols: dict[str, int]) -> int:
    if dim in symbols:
        return symbols[dim]
    try:
        return int(sympy.sympify(dim, locals={**_FUNCTIONS, **symbols}))
    except (TypeError, ValueError, sympy.SympifyError) as error:
        raise GraphError(f"the dimension {dim!r} is not a formula of batch_size and sequence_length: {error}") from None
