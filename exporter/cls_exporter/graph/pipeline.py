"""The order of the graph passes, and what they must have achieved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx
import onnx_ir as ir
from onnx_ir.passes import common

from cls_exporter.config import Layout
from cls_exporter.errors import GraphError
from cls_exporter.graph.families import Form
from cls_exporter.graph.passes.broadcast_elimination import BroadcastElimination
from cls_exporter.graph.passes.constant_reshapes import ConstantReshapes
from cls_exporter.graph.passes.gelu_fusion import GeluFusion
from cls_exporter.graph.passes.output_layout import OutputLayout
from cls_exporter.graph.passes.packed_projection import PackedProjection
from cls_exporter.graph.passes.padding_mask import PaddingMask
from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Rewritten, known_dims
from cls_exporter.graph.passes.row_selection import RowSelection
from cls_exporter.graph.passes.single_query_attention import SingleQueryAttention
from cls_exporter.graph.passes.weight_names import WeightNames

PASSES = (
    WeightNames,  # before the rewrites, which name what they make after it
    ConstantReshapes,  # first: the others read constant targets
    PaddingMask,
    BroadcastElimination,
    PackedProjection,  # before RowSelection: the query's row is selected alone
    GeluFusion,  # before RowSelection: it matches the traced form
    RowSelection,
    SingleQueryAttention,  # after RowSelection: only a selected query has one row
)


@dataclass(frozen=True)
class Compiled:
    """A compiled graph.

    Attributes:
        model: computes what its outputs need.
        whole: the same before the selection of a row moved: every row of every layer, and the outputs that were traced.
        rewrites: how often each pass fired.
        notes: what is slower than usual, in words.
    """

    model: ir.Model
    whole: ir.Model
    rewrites: Mapping[str, int]
    notes: tuple[str, ...] = ()


def compile_graph(model: ir.Model, *, form: Form, layout: Layout) -> Compiled:
    """Runs the passes over a traced model, in place, and checks what they achieved.

    Raises:
        GraphError: an expected rewrite did not happen and no setting of the checkpoint explains it, or the result is not valid ONNX.
    """
    rewrites: dict[str, int] = {}
    whole = model
    for kind in PASSES:
        if kind is RowSelection:
            whole = model.clone()
        rewrites[kind.__name__] = apply_pass(kind(), model)
    notes = form.notes + _missed(model, rewrites, form)
    rewrites[OutputLayout.__name__] = apply_pass(OutputLayout(layout=layout), model)
    clean(model)
    clean(whole)
    _check_valid(model)
    return Compiled(model, whole, rewrites, notes)


def apply_pass(one: ir.passes.InPlacePass, model: ir.Model) -> int:
    """Runs one pass, removes what it left unused, and says how often it fired."""
    result = one(model)
    assert isinstance(result, Rewritten)
    common.RemoveUnusedNodesPass()(model)
    return result.count


def clean(model: ir.Model) -> None:
    """Removes what several passes together left behind: equal and unused nodes, clashing names, the tracer's remarks."""
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.NameFixPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    _leave_out_unread_outputs(model)


def _leave_out_unread_outputs(model: ir.Model) -> None:
    """An optional output without a name is not made; `NameFixPass` gives every value one."""
    for node in model.graph:
        for value in node.outputs[1:]:
            if node.domain == MICROSOFT_DOMAIN and not value.uses() and not value.is_graph_output():
                value.name = ""


def _missed(model: ir.Model, rewrites: Mapping[str, int], form: Form) -> tuple[str, ...]:
    """A rewrite that silently stops to match would give a slow graph, not a wrong one; so it is an error or a note here."""
    missed = []
    query_rows = [known_dims(node.outputs[0])[-2] for node in model.graph if node.op_type == "Softmax"]
    if len(query_rows) != form.layers or query_rows.count(1) != form.one_row:
        found = f"{query_rows.count(1)} of {len(query_rows)} attention layers compute one query row"
        missed.append(f"{found}, expected {int(form.one_row)} of {form.layers}")
    spared = rewrites[SingleQueryAttention.__name__]
    if spared != form.reassociated_products:
        missed.append(f"{spared} products of the last attention were reassociated, expected {form.reassociated_products}")
    normalized = sum(node.op_type == "LayerNormalization" for node in model.graph)
    if normalized < form.layers:
        missed.append(f"{normalized} LayerNormalization operators in {form.layers} layers, the tracer decomposed them")
    return tuple(map(form.missed, missed))


def _check_valid(model: ir.Model) -> None:
    if sum(initializer.const_value.nbytes for initializer in model.graph.initializers.values() if initializer.const_value) > 2**30:
        return  # the checker serializes the model, which protobuf limits to 2 GB; the gate loads the file in any case
    try:
        onnx.checker.check_model(ir.to_proto(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise GraphError(f"the exported graph is not valid ONNX: {error}") from error
