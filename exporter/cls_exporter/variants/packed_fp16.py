"""The form of fp16 for our CUDA engine: the tokens of all texts one after another, without padding, on attention's fastest kernel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import ParityError
from cls_exporter.graph.families import Form
from cls_exporter.graph.passes.attention_bias_folding import AttentionBiasFolding
from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.attention_scale import AttentionScale
from cls_exporter.graph.passes.bias_gelu_fusion import BiasGeluFusion
from cls_exporter.graph.passes.half_precision import computed_in_float16
from cls_exporter.graph.passes.mish_expansion import MishExpansion
from cls_exporter.graph.passes.packed_row_selection import PackedRowSelection
from cls_exporter.graph.passes.rewriting import known_dims
from cls_exporter.graph.passes.row_selection import RowSelection
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.graph.passes.token_packing import TokenPacking
from cls_exporter.graph.pipeline import apply_pass
from cls_exporter.variants.folded_range import bound_when_folded
from cls_exporter.variants.half_graph import check_kernels, half_graph
from cls_exporter.variants.half_range import LIMIT, check_range

# What ONNX Runtime's flash attention computes (flash_api.cc, `is_supported`).
HEAD_MULTIPLE, LARGEST_HEAD = 8, 256


@dataclass(frozen=True)
class Packed:
    """A packed graph, None where the checkpoint has none, and notes for the report."""

    model: ir.Model | None
    notes: tuple[str, ...] = ()


def packed_fp16(
    whole: ir.Model, *, checkpoint: Checkpoint, form: Form, tables: Collection[str], texts: Sequence[str], largest: float
) -> Packed:
    """Makes the packed form of `whole`, a compiled fp32 graph that computes every row of every layer; `whole` is left as it was.

    Without the biases that are folded other numbers arise than in the padded form. Where `largest` bounds them within float16's range,
    that is all; otherwise they are tried on `texts` like the padded form's. A graph that goes beyond the range only there has no packed
    form, and a note says so.

    Args:
        whole: the graph.
        checkpoint: what it was traced from.
        form: what its graph must show.
        tables: as `HalfPrecision` has them.
        texts: at least one.
        largest: what `check_range` found in the padded form on `texts`.

    Raises:
        GraphError: a weight is beyond float16's range; or the tokens could not be packed, or an operator has no CUDA kernel, and no
            setting of the checkpoint explains it.
    """
    if not form.packed:
        return Packed(None)
    built = whole.clone()
    apply_pass(MishExpansion(), built)
    apply_pass(AttentionScale(), built)
    bound = bound_when_folded(built, largest=largest, tables=tables)
    folded = apply_pass(AttentionBiasFolding(), built)
    notes = _check(form, "biases of keys and values were folded", folded, 2 * form.layers)
    try:
        if bound > LIMIT:
            _check_range(built, checkpoint=checkpoint, tables=tables, texts=texts)
    except ParityError as error:
        return Packed(None, (f"fp16 has no packed form, so GPUs use the padded one: {error}",))
    apply_pass(AttentionFusion(), built)
    apply_pass(SkipLayerNormFusion(), built)
    attentions = apply_pass(TokenPacking(), built)
    if attentions != form.layers:
        missed = form.missed(f"{attentions} attention layers were packed for fp16 in {form.layers} layers, expected {form.layers}")
        return Packed(None, (*notes, missed))
    apply_pass(PackedRowSelection(), built)
    apply_pass(BiasGeluFusion(), built)
    model, _ = half_graph(built, tables=tables)
    return Packed(model, notes + check_kernels(model, form) + _unfused_heads(model))


def _unfused_heads(model: ir.Model) -> tuple[str, ...]:
    """A note where heads have a size that flash attention does not take: the operator then computes by a slower kernel."""
    sizes: set[int] = set()
    for node in model.graph:
        if node.op_type == "PackedMultiHeadAttention":
            width = known_dims(node.outputs[0])[-1]
            assert isinstance(width, int)
            sizes.add(width // node.attributes["num_heads"].as_int())
    unfused = sorted(size for size in sizes if size % HEAD_MULTIPLE or size > LARGEST_HEAD)
    what = f"flash attention supports multiples of {HEAD_MULTIPLE} up to {LARGEST_HEAD}"
    return tuple(f"slower than usual on GPUs: fp16's attention heads have size {size}; {what}" for size in unfused)


def _check(form: Form, what: str, found: int, expected: int) -> tuple[str, ...]:
    return () if found == expected else (form.missed(f"{found} {what} for fp16's packed form, expected {expected}"),)


def _check_range(model: ir.Model, *, checkpoint: Checkpoint, tables: Collection[str], texts: Sequence[str]) -> None:
    """Tries what becomes of `texts`; rows of the last layer that no output reads may be anything."""
    tried = model.clone()
    apply_pass(RowSelection(), tried)
    check_range(tried, computed_in_float16(tried, tables=tables), checkpoint=checkpoint, texts=texts)
