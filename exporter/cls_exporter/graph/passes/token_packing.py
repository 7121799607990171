"""The pass that lays the tokens of all texts out one after another, without padding between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from cls_exporter.graph.passes.padding_mask import MASK_INPUT
from cls_exporter.graph.passes.rewriting import (
    MICROSOFT_DOMAIN,
    Builder,
    Dim,
    Rewritten,
    attribute,
    constant,
    constant_ints,
    dims,
    known_dims,
    produced_by,
)
from cls_exporter.graph.passes.row_selection import ELEMENTWISE
from cls_exporter.graph.token_indices import Counted, Index, Same, index_of

TOKENS, BATCH, SEQUENCE = "tokens", "batch_size", "sequence_length"
CLS_ROWS = "cls_rows"
# The inputs of a packed graph, in order, int32; what each holds is said in `cls_runtime.engines.packing`.
INPUTS: Mapping[str, tuple[Dim, ...]] = {
    "input_ids": (TOKENS,),
    "token_type_ids": (TOKENS,),
    "position_ids": (TOKENS,),
    "cu_seqlens": ("batch_size + 1",),
    CLS_ROWS: (BATCH,),
    "token_offset": (BATCH, SEQUENCE),
    MASK_INPUT: (BATCH, SEQUENCE),
}
_TOKEN_INPUTS = ("input_ids", "token_type_ids")


class TokenPacking(ir.passes.InPlacePass):
    """Computes rows [T, N] of all tokens where a fused graph computes [B, S, N], padding included.

    1. `input_ids` and `token_type_ids` are int32 [T]. What still reads `attention_mask` reads an int32 one.
    2. An index into embeddings that is computed from shapes and ids is recognised by its values (`token_indices`): places of tokens are
       read from `position_ids` [T], places among tokens that are no padding are counted from it, and an index that is the same for every
       token picks one row, [N].
    3. An operator that computes each row alone computes [T, N].
    4. `MultiHeadAttention` under the plain padding mask is `PackedMultiHeadAttention`, which has no mask and no padding.
    5. `Gather(x, 0, axis=1)` is `Gather(rows, cls_rows)`.
    6. What else reads rows reads them as [B, S, N], from `RestorePadding`; an output of all rows stays [T, N].

    All or nothing: with an attention that is not rule 4's, or anything else that needs ids as [B, S], the graph stays as it is.
    """

    def call(self, model: ir.Model) -> Rewritten:
        plan = _plan(model.graph)
        if plan is None:
            return Rewritten.of(model, 0)
        _Packing(model.graph, plan).apply()
        return Rewritten.of(model, len(plan.attentions))


@dataclass
class _Plan:
    """What becomes rows, which of it an attention makes, and what the indices into embeddings mean."""

    rows: set[ir.Value] = field(default_factory=set)
    attentions: list[ir.Node] = field(default_factory=list)
    indices: dict[ir.Node, Index] = field(default_factory=dict)
    single: set[ir.Value] = field(default_factory=set)  # one row for all tokens


def _plan(graph: ir.Graph) -> _Plan | None:
    attentions = [node for node in graph if node.op_type in {"MultiHeadAttention", "Softmax"}]
    if not attentions:
        return None
    plan = _Plan()
    for node in graph:
        if _is_row_wise(node, plan) or _looks_up(graph, node, plan):
            plan.rows.add(node.outputs[0])
            if node.op_type == "SkipLayerNormalization":
                plan.rows.update(node.outputs[3:])
        elif _is_plain_attention(node, plan):
            plan.rows.add(node.outputs[0])
            plan.attentions.append(node)
    return plan if attentions == plan.attentions and _needs_no_padding_of_ids(graph, plan) else None


def _is_row_wise(node: ir.Node, plan: _Plan) -> bool:
    """Rule 3."""
    values = [value for value in node.inputs if value is not None]
    rows = [value for value in values if value in plan.rows and value not in plan.single]
    if not rows or len(known_dims(node.outputs[0])) != 3:
        return False
    others = [value for value in values if value not in plan.rows]
    if (node.domain, node.op_type) == (MICROSOFT_DOMAIN, "SkipLayerNormalization"):
        return rows == values[:2]
    if node.domain:
        return False
    if node.op_type == "MatMul":
        return rows == values[:1] and _has_rank(others, 2)
    if node.op_type == "LayerNormalization":
        return rows == values[:1] and attribute(node, "axis", -1) in (-1, 2) and len(node.outputs) == 1 and _has_rank(others, 1)
    return node.op_type in ELEMENTWISE and all(len(constant_dims) <= 1 for constant_dims in map(_constant_dims, others))


def _constant_dims(value: ir.Value) -> tuple[int, ...]:
    """The shape of a constant; of anything else one that no rule takes."""
    array = constant(value)
    return (0, 0, 0) if array is None else array.shape


def _has_rank(values: list[ir.Value], rank: int) -> bool:
    return all(len(_constant_dims(value)) == rank for value in values)


def _looks_up(graph: ir.Graph, node: ir.Node, plan: _Plan) -> bool:
    """Rules 1 and 2."""
    if node.op_type != "Gather" or node.domain or attribute(node, "axis", 0) != 0:
        return False
    table, ids = node.inputs
    if table is None or ids is None or len(_constant_dims(table)) != 2:
        return False
    if ids.is_graph_input() and ids.name in _TOKEN_INPUTS:
        return True
    index = None if ids.is_graph_input() or constant(ids) is not None else index_of(graph, ids)
    if index is None:
        return False
    plan.indices[node] = index
    if isinstance(index, Same):
        plan.single.add(node.outputs[0])
    return True


def _is_plain_attention(node: ir.Node, plan: _Plan) -> bool:
    """Rule 4."""
    if (node.domain, node.op_type) != (MICROSOFT_DOMAIN, "MultiHeadAttention") or len(node.outputs) != 1:
        return False
    query, keys, values, bias, mask, *others = [*node.inputs, None, None]
    projected = all(value in plan.rows and value not in plan.single for value in (query, keys, values))
    return projected and bias is None and not any(others) and _is_key_padding_mask(mask)


def _is_key_padding_mask(value: ir.Value | None) -> bool:
    kept = produced_by(value, "Cast")
    boolean = None if kept is None else produced_by(kept.inputs[0], "Cast")
    mask = None if boolean is None else boolean.inputs[0]
    return mask is not None and mask.is_graph_input() and mask.name == MASK_INPUT and boolean.outputs[0].dtype == ir.DataType.BOOL  # type: ignore[union-attr]


def _needs_no_padding_of_ids(graph: ir.Graph, plan: _Plan) -> bool:
    """Whether ids as [B, S] are read for nothing but rows, or for their shape, which the mask has too."""
    seen: set[ir.Value] = set()
    pending = list(graph.outputs)
    while pending:
        value = pending.pop()
        node = value.producer()
        if value in seen or node is None:
            continue
        seen.add(value)
        inputs = [item for item in node.inputs if item is not None]
        if value not in plan.rows:
            if node.op_type != "Shape" and any(item.is_graph_input() and item.name in _TOKEN_INPUTS for item in inputs):
                return False
            pending += inputs
        else:
            pending += [item for item in inputs if item in plan.rows]
    return True


class _Packing:
    """Applies a plan to a graph."""

    def __init__(self, graph: ir.Graph, plan: _Plan) -> None:
        self._graph, self._plan = graph, plan
        self._old = {str(value.name): value for value in graph.inputs}
        self._new = {
            name: ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.INT32)) for name, shape in INPUTS.items()
        }
        self._restored: dict[ir.Value, ir.Value] = {}

    def apply(self) -> None:
        for value in [output for node in self._graph for output in node.outputs if output in self._plan.rows]:
            self._restore_where_it_is_not_rows(value)
        for node in list(self._graph):
            if node.outputs[0] in self._plan.rows:
                self._pack(node)
        self._replace_inputs()

    def _pack(self, node: ir.Node) -> None:
        if node in self._plan.attentions:
            self._pack_attention(node)
        elif node in self._plan.indices:
            self._pack_index(node, self._plan.indices[node])
        else:
            for index, value in enumerate(node.inputs):
                if value is not None and value.name in _TOKEN_INPUTS and value.is_graph_input():
                    node.replace_input_with(index, self._new[value.name])
            if node.op_type == "LayerNormalization":
                node.attributes["axis"] = ir.AttrInt64("axis", -1)
            for output in node.outputs:
                if output in self._plan.rows:
                    output.shape = ir.Shape([TOKENS, known_dims(output)[-1]])

    def _pack_attention(self, node: ir.Node) -> None:
        build = Builder(node)
        inputs = [*node.inputs[:3], None, self._new["token_offset"], self._new["cu_seqlens"]]
        attributes = {"num_heads": attribute(node, "num_heads", 0), "scale": node.attributes["scale"].as_float()}
        width = known_dims(node.outputs[0])[-1]
        build.replace(node, build.node("PackedMultiHeadAttention", inputs, [TOKENS, width], attributes=attributes, domain=MICROSOFT_DOMAIN))

    def _pack_index(self, node: ir.Node, index: Index) -> None:
        """Rule 2."""
        build, table = Builder(node), node.inputs[0]
        array = constant(table)
        assert table is not None
        assert array is not None
        if isinstance(index, Same):
            build.replace(node, build.initializer(array[index.number], f"{table.name}.row_{index.number}"))
            return
        positions = self._new["position_ids"]
        if isinstance(index, Counted):
            positions = self._counted(build, index.pad_id)
        if index.first:
            positions = build.node("Add", [positions, self._int(build, index.first)], [TOKENS])
        node.replace_input_with(1, positions)
        node.outputs[0].shape = ir.Shape([TOKENS, array.shape[1]])

    def _counted(self, build: Builder, pad_id: int) -> ir.Value:
        """How many tokens of the same text up to this one are not `pad_id`, 0 for that one; int32 [T]."""
        places, axis = self._new["position_ids"], self._int(build, 0)

        def node(op_type: str, *inputs: ir.Value, **attributes: int) -> ir.Value:
            dtype = ir.DataType.BOOL if op_type in {"Equal", "Not"} else ir.DataType.INT32
            return build.node(op_type, inputs, [TOKENS], dtype=dtype, attributes=attributes)

        padding = node("Equal", self._new["input_ids"], self._int(build, pad_id))
        counts = node("Cast", node("Not", padding), to=int(ir.DataType.INT32))
        # The row of each token, from 0 on. By a sum over ones: a Range would have its size on the CPU.
        ones = node("Cast", node("Equal", places, places), to=int(ir.DataType.INT32))
        begins = node("Sub", node("CumSum", ones, axis, exclusive=1), places)
        # As few sums as can be: CUDA's kernel adds up all that is before each token, which takes the square of their number.
        earlier = node("CumSum", counts, axis, exclusive=1)
        before = node("Gather", earlier, begins, axis=0)
        return node("Mul", node("Sub", node("Add", earlier, counts), before), counts)

    def _int(self, build: Builder, number: int) -> ir.Value:
        return build.initializer(np.array(number, dtype=np.int32), f"int32_{number}")

    def _restore_where_it_is_not_rows(self, value: ir.Value) -> None:
        """Rules 5 and 6."""
        for use in list(value.uses()):
            if use.node.outputs[0] in self._plan.rows:
                continue
            build = Builder(use.node)
            if _selects_first_row(use.node):
                shape = known_dims(use.node.outputs[0])
                build.replace(use.node, build.node("Gather", [value, self._new[CLS_ROWS]], shape, attributes={"axis": 0}))
                continue
            if value not in self._restored:
                inputs = [value, self._new["token_offset"]]
                self._restored[value] = build.node("RestorePadding", inputs, known_dims(value), domain=MICROSOFT_DOMAIN)
            use.node.replace_input_with(use.idx, self._restored[value])

    def _replace_inputs(self) -> None:
        """Rule 1: the inputs that are read, in the order of `INPUTS`."""
        mask, ids = self._new[MASK_INPUT], [self._old[name] for name in _TOKEN_INPUTS if name in self._old]
        for use in [use for value in ids for use in value.uses() if use.node.op_type == "Shape"]:
            use.node.replace_input_with(use.idx, mask)
        for use in list(self._old[MASK_INPUT].uses()):
            if use.node.op_type in {"Cast", "Shape"}:
                use.node.replace_input_with(use.idx, mask)
                continue
            cast = next((one.node.outputs[0] for one in mask.uses() if one.node.op_type == "Cast" and _is_int64(one.node)), None)
            if cast is None:
                attributes = {"to": int(ir.DataType.INT64)}
                cast = Builder(use.node).node("Cast", [mask], [BATCH, SEQUENCE], dtype=ir.DataType.INT64, attributes=attributes)
            use.node.replace_input_with(use.idx, cast)
        self._graph.sort()
        _remove_unread(self._graph)
        self._graph.inputs.clear()
        self._graph.inputs.extend(value for value in self._new.values() if value.uses())


def _is_int64(cast: ir.Node) -> bool:
    return cast.outputs[0].dtype == ir.DataType.INT64


def _selects_first_row(node: ir.Node) -> bool:
    is_gather = node.op_type == "Gather" and not node.domain and attribute(node, "axis", 0) == 1
    return is_gather and constant_ints(node.inputs[1]) == (0,) and dims(node.inputs[1]) == ()  # type: ignore[arg-type]


def _remove_unread(graph: ir.Graph) -> None:
    """Removes what no output depends on: it may read inputs that are not there."""
    for node in reversed(list(graph)):
        if not any(output.uses() or output.is_graph_output() for output in node.outputs):
            graph.remove(node, safe=True)
