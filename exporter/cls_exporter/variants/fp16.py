"""The fp16 variant: half the bytes, for GPUs, with what would overflow or lose computed in float32. See docs/adr/0004-fp16.md."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.graph.families import Form, form_of
from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.attention_scale import AttentionScale
from cls_exporter.graph.passes.half_precision import HalfPrecision, computed_in_float16
from cls_exporter.graph.passes.mish_expansion import MishExpansion
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.graph.pipeline import apply_pass, clean
from cls_exporter.variants.cuda_kernels import nodes_without_cuda_kernel, without_cuda_kernel
from cls_exporter.variants.half_range import check_range
from cls_exporter.variants.variant import Built

TRIED = "attention scaled before its product; masks, softmax, norms and positions in float32"


def build_fp16(model: ir.Model, *, checkpoint: Checkpoint, texts: Sequence[str]) -> Built:
    """Turns a compiled fp32 graph into an fp16 one, whose numbers it tries on `texts`; `model` is left as it was.

    An operator that CUDA computes in float32 only is left in it.

    Raises:
        GraphError: a weight is beyond float16's range; or a fusion did not happen or an operator has no CUDA kernel in either type, and no
            setting of the checkpoint explains it.
        ParityError: one of `texts` drives a number beyond what float16 can hold safely.
    """
    form = form_of(checkpoint)
    tables = [f"encoder.{name}" for name in checkpoint.architecture.computed]
    built = model.clone()
    apply_pass(MishExpansion(), built)
    scaled = apply_pass(AttentionScale(), built)
    largest = check_range(built, computed_in_float16(built, tables=tables), checkpoint=checkpoint, texts=texts)
    attentions, norms = apply_pass(AttentionFusion(), built), apply_pass(SkipLayerNormFusion(), built)
    notes = check_fusions(form, attentions=attentions, norms=norms)
    fused = built.clone()
    _halve(built, tables=tables)
    if kept := sorted({node.op_type for node in nodes_without_cuda_kernel(built) if _computes_halves(node)}):
        built = fused
        _halve(built, tables=tables, float32=kept)
        notes += (f"fp16: {', '.join(kept)} stays in float32, which costs casts: ONNX Runtime has no CUDA kernel for it in float16",)
    if missing := without_cuda_kernel(built):
        notes += (form.missed(f"ONNX Runtime has no CUDA kernel for {'; '.join(missing)}, a GPU hands it to the CPU"),)
    recipe = {
        "weights": "float16",
        "compute": "float16; positions, rotations, softmax and the statistics of norms in float32",
        "scaled_products": scaled,
        "fused_attentions": attentions,
        "fused_norms": norms,
        "largest_activation": float(f"{largest:.4g}"),
        **({"float32_operators": kept} if kept else {}),
    }
    return Built(model=built, recipe=recipe, tried=TRIED, notes=notes)


def _halve(model: ir.Model, *, tables: Collection[str], float32: Collection[str] = ()) -> None:
    apply_pass(HalfPrecision(tables=tables, float32=float32), model)
    clean(model)


def _computes_halves(node: ir.Node) -> bool:
    return any(value.dtype == ir.DataType.FLOAT16 for value in node.outputs)


def check_fusions(form: Form, *, attentions: int, norms: int) -> tuple[str, ...]:
    """Holds the number of fused operators to what the checkpoint's graph must have, and gives a note for each that a setting explains.

    Raises:
        GraphError: there are more or fewer, and no setting explains it: a graph that is not fused would be slow on a GPU silently.
    """
    expected = form.whole_layers if form.fused_attention else 0  # a layer with one query row has neither keys nor values
    counts = (("attentions", attentions, expected), ("residual norms", norms, 2 * form.layers))
    return tuple(
        form.missed(f"{fused} {what} were fused for fp16 in {form.layers} layers, expected {wanted}")
        for what, fused, wanted in counts
        if fused != wanted
    )
