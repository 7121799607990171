"""A fused float32 graph in float16, with the operators that CUDA computes in float32 only left in it."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from cls_exporter.graph.families import Form
from cls_exporter.graph.passes.half_precision import HalfPrecision
from cls_exporter.graph.pipeline import apply_pass, clean
from cls_exporter.variants.cuda_kernels import nodes_without_cuda_kernel, without_cuda_kernel


def half_graph(fused: ir.Model, *, tables: Collection[str]) -> tuple[ir.Model, list[str]]:
    """`fused` in float16, and the operators that stay in float32 because CUDA has no kernel for them in float16; `fused` is used up.

    Raises:
        GraphError: a weight is beyond float16's range.
    """
    again = fused.clone()
    _halve(fused, tables=tables)
    kept = sorted({node.op_type for node in nodes_without_cuda_kernel(fused) if _computes_halves(node)})
    if not kept:
        return fused, []
    _halve(again, tables=tables, float32=kept)
    return again, kept


def check_kernels(model: ir.Model, form: Form) -> tuple[str, ...]:
    """A note where CUDA has no kernel at all for an operator.

    Raises:
        GraphError: no setting of the checkpoint explains it.
    """
    missing = without_cuda_kernel(model)
    return (form.missed(f"ONNX Runtime has no CUDA kernel for {'; '.join(missing)}, so it runs on the CPU"),) if missing else ()


def _halve(model: ir.Model, *, tables: Collection[str], float32: Collection[str] = ()) -> None:
    apply_pass(HalfPrecision(tables=tables, float32=float32), model)
    clean(model)


def _computes_halves(node: ir.Node) -> bool:
    return any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs)
