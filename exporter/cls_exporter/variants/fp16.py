"""The fp16 variant: half the bytes, for GPUs, with what would overflow or lose computed in float32. See docs/adr/0004-fp16.md."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.graph.families import Form, form_of
from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.attention_scale import AttentionScale
from cls_exporter.graph.passes.half_precision import computed_in_float16
from cls_exporter.graph.passes.mish_expansion import MishExpansion
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.graph.pipeline import apply_pass
from cls_exporter.variants.half_graph import check_kernels, half_graph
from cls_exporter.variants.half_range import check_range
from cls_exporter.variants.packed_fp16 import packed_fp16
from cls_exporter.variants.variant import PACKED_ENGINE, Built

TRIED = "attention scaled before its product; masks, softmax, norms and positions in float32"


def build_fp16(model: ir.Model, *, checkpoint: Checkpoint, texts: Sequence[str], whole: ir.Model | None = None) -> Built:
    """Turns a compiled fp32 graph into an fp16 one, whose numbers it tries on `texts`; `model` is left as it was.

    An operator that CUDA computes in float32 only is left in it. `whole` is the same graph with every row of every layer, of which the
    packed form is made; None for no such form.

    Raises:
        GraphError: a weight is beyond float16's range; or a fusion did not happen or an operator has no CUDA kernel in either type, and no
            setting of the checkpoint explains it.
        ParityError: one of `texts` drives a number beyond what float16 can hold safely.
    """
    form = form_of(checkpoint)
    tables = [f"encoder.{name}" for name in checkpoint.architecture.computed]
    fused = model.clone()
    apply_pass(MishExpansion(), fused)
    scaled = apply_pass(AttentionScale(), fused)
    largest = check_range(fused, computed_in_float16(fused, tables=tables), checkpoint=checkpoint, texts=texts)
    attentions, norms = apply_pass(AttentionFusion(), fused), apply_pass(SkipLayerNormFusion(), fused)
    notes = check_fusions(form, attentions=attentions, norms=norms)
    built, kept = half_graph(fused, tables=tables)
    if kept:
        notes += (f"fp16: {', '.join(kept)} stays in float32, which costs casts: ONNX Runtime has no CUDA kernel for it in float16",)
    notes += check_kernels(built, form)
    engine_models: dict[str, ir.Model] = {}
    if whole is not None:
        packed = packed_fp16(whole, checkpoint=checkpoint, form=form, tables=tables, texts=texts, largest=largest)
        notes += packed.notes
        engine_models |= {} if packed.model is None else {PACKED_ENGINE: packed.model}
    recipe = {
        "weights": "float16",
        "compute": "float16; positions, rotations, softmax and the statistics of norms in float32",
        "scaled_products": scaled,
        "fused_attentions": attentions,
        "fused_norms": norms,
        "largest_activation": float(f"{largest:.4g}"),
        **({"float32_operators": kept} if kept else {}),
    }
    return Built(model=built, engine_models=engine_models, recipe=recipe, tried=TRIED, notes=notes)


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
