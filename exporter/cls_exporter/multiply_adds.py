"""Counts a graph's multiply-adds: the work that a pass saves, as a number that no timer blurs."""

from __future__ import annotations

import math

import onnx_ir as ir
import sympy  # type: ignore[import-untyped]

from cls_exporter.errors import GraphError
from cls_exporter.passes.rewriting import MICROSOFT_DOMAIN, Dim, attribute, known_dims

_FUNCTIONS = {"Min": sympy.Min, "Max": sympy.Max}


def multiply_adds(model: ir.Model, *, batch_size: int, sequence_length: int) -> int:
    """Multiply-adds of every matrix product of `model` for a batch of B texts of S tokens.

    Raises:
        GraphError: a product's shape is not known.
    """
    symbols = {"batch_size": batch_size, "sequence_length": sequence_length}
    return sum(_of_node(node, symbols) for node in model.graph)


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
