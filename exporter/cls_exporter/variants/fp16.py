"""The fp16 variant: half the bytes, for GPUs, with what would overflow or lose computed in float32. See docs/adr/0004-fp16.md."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import GraphError
from cls_exporter.graph.families import FAMILIES, Family
from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.attention_scale import AttentionScale
from cls_exporter.graph.passes.half_precision import HalfPrecision, computed_in_float16
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.graph.pipeline import apply_pass, clean
from cls_exporter.variants.cuda_kernels import without_cuda_kernel
from cls_exporter.variants.half_range import check_range
from cls_exporter.variants.variant import Built

TRIED = "attention scaled before its product; masks, softmax, norms and positions in float32"


def build_fp16(model: ir.Model, *, checkpoint: Checkpoint, texts: Sequence[str]) -> Built:
    """Turns a compiled fp32 graph into an fp16 one, whose numbers it tries on `texts`; `model` is left as it was.

    Raises:
        GraphError: a fusion that the family is known for did not happen, a weight is beyond float16's range, or an operator has no CUDA
            kernel.
        ParityError: one of `texts` drives a number beyond what float16 can hold safely.
    """
    family = FAMILIES[checkpoint.architecture.model_type]
    tables = [f"encoder.{name}" for name in checkpoint.architecture.computed]
    built = model.clone()
    scaled = apply_pass(AttentionScale(), built)
    largest = check_range(built, computed_in_float16(built, tables=tables), checkpoint=checkpoint, texts=texts)
    attentions, norms = apply_pass(AttentionFusion(), built), apply_pass(SkipLayerNormFusion(), built)
    check_fusions(family, num_layers=int(checkpoint.config.num_hidden_layers), attentions=attentions, norms=norms)
    apply_pass(HalfPrecision(tables=tables), built)
    clean(built)
    if missing := without_cuda_kernel(built):
        raise GraphError(
            f"{family.model_type}: ONNX Runtime has no CUDA kernel for {'; '.join(missing)}; export fp32, and please report it"
        )
    recipe = {
        "weights": "float16",
        "compute": "float16; positions, rotations, softmax and the statistics of norms in float32",
        "scaled_products": scaled,
        "fused_attentions": attentions,
        "fused_norms": norms,
        "largest_activation": float(f"{largest:.4g}"),
    }
    return Built(model=built, recipe=recipe, tried=TRIED)


def check_fusions(family: Family, *, num_layers: int, attentions: int, norms: int) -> None:
    """Holds the number of fused operators to what a model of `num_layers` layers of the family must have.

    Raises:
        GraphError: there are more or fewer; a graph that is not fused is slow on a GPU, and would be so silently.
    """
    expected = num_layers - 1 if family.fused_attention else 0  # the last layer has one query row, and neither keys nor values
    for what, fused, wanted in (("attentions", attentions, expected), ("residual norms", norms, 2 * num_layers)):
        if fused != wanted:
            raise GraphError(
                f"{family.model_type}: {fused} {what} were fused for fp16 in {num_layers} layers, expected {wanted}; "
                "this version of transformers traces another graph, please report it"
            )
