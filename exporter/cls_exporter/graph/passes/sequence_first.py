"""The pass that lets ONNX Runtime read attention's heads where the projections wrote them."""

from __future__ import annotations

from dataclasses import dataclass, field

import onnx_ir as ir
from onnx_ir.passes import common

from cls_exporter.graph.passes.rewriting import Builder, Dim, Rewritten, attribute, constant_ints, dims, known_dims, permutation
from cls_exporter.graph.passes.row_selection import RULES, Rule, selected_axis


class SequenceFirst(ir.passes.InPlacePass):
    """Computes on [S, B, ...] what is computed for each token alone.

    1. A Transpose of [B, S, ...] to another order (heads are split: [B, S, A, D] to [B, A, S, D]) starts from [S, B, ...] instead, and so
       do the selection of row 0, which is the first B rows, and a sum over the tokens.
    2. What they read is computed on [S, B, ...] by every operation that treats both axes as rows, up to the lookups of [B, S] indices and
       the Transposes that make [B, S, ...] (attention's context).
    3. Whoever else reads such a value gets it back as [B, S, ...], an output of the graph too.

    With heads as [S, B, A, D], ONNX Runtime's MatMul takes the Transpose in front of it into its strides (`transBatchA`, `transBatchB`);
    with [B, S, A, D] it copies queries, keys and values first. Not for OpenVINO, which is slower with it (docs/adr/0003-int8-recipe.md).
    """

    def call(self, model: ir.Model) -> Rewritten:
        ids = next((value for value in model.graph.inputs if value.name == "input_ids"), None)
        order = None if ids is None else dims(ids)
        if order is None or len(order) != 2:
            return Rewritten.of(model, 0)
        twins = _Twins(order)
        count = sum(_rewrite(node, twins) for node in list(model.graph))
        if count:
            twins.make_outputs(model.graph)
        if count:
            common.RemoveUnusedNodesPass()(model)  # a dead reader would be given its value back
            twins.give_back(model.graph)
        return Rewritten.of(model, count)


def _rewrite(node: ir.Node, twins: _Twins) -> bool:
    """Rule 1."""
    source = node.inputs[0] if node.inputs else None
    is_selection, is_sum = selected_axis(node) == 1, _is_sum_over_tokens(node)
    if source is None or node.domain or not (is_selection or is_sum or node.op_type == "Transpose") or not twins.leads(source):
        return False
    if len(known_dims(source)) < 3 or (twins.leads(node.outputs[0]) and not is_selection) or not twins.possible(source):
        return False
    twin, build = twins.of(source), Builder(node)
    if is_selection:
        _, batch, *rest = known_dims(twin)
        bounds = [build.ints([0], "row_0"), build.ints([1], "row_1"), build.ints([0], "axis_0")]
        rows = build.node("Slice", [twin, *bounds], [1, batch, *rest])
        build.replace(node, build.transpose(rows, _swapped(rows)))
    elif is_sum:
        inputs = [twin, build.ints([0], "axis_0")]
        build.replace(node, build.node("ReduceSum", inputs, known_dims(node.outputs[0]), attributes={"keepdims": 0}))
    else:
        build.replace(node, build.transpose(twin, [{0: 1, 1: 0}.get(axis, axis) for axis in permutation(node)]))
    return True


def _is_sum_over_tokens(node: ir.Node) -> bool:
    """Whether a node adds up [B, S, ...] over S to [B, ...]."""
    return (
        node.op_type == "ReduceSum"
        and len(node.inputs) > 1
        and constant_ints(node.inputs[1]) == (1,)
        and not attribute(node, "keepdims", 1)
    )


class _Twins:
    """The values [B, S, ...] of a graph as [S, B, ...], made when they are asked for."""

    def __init__(self, order: tuple[Dim, ...]) -> None:
        self._order = order
        self._possible: dict[ir.Value, bool] = {}
        self._made: dict[ir.Value, ir.Value] = {}

    def leads(self, value: ir.Value) -> bool:
        """Whether a value is [B, S, ...]."""
        return (dims(value) or ())[:2] == self._order

    def possible(self, value: ir.Value) -> bool:
        """Whether all that `value` [B, S, ...] is made of treats both axes alike."""
        if value not in self._possible:
            node = value.producer()
            reads = None if node is None or node.domain else self._reads(node)
            alike = len(known_dims(value)) == 2 or (reads is not None and all(map(self.possible, reads.twins)))
            self._possible[value] = alike
        return self._possible[value]

    def of(self, value: ir.Value) -> ir.Value:
        """Rule 2: `value` [B, S, ...], for which it is `possible`, as [S, B, ...]."""
        if value not in self._made:
            node = value.producer()
            if len(known_dims(value)) == 2:
                self._made[value] = Builder(next(iter(value.consumers()))).transpose(value, [1, 0])
            else:
                assert node is not None
                self._made |= dict(zip(node.outputs, self._outputs(node), strict=True))
        return self._made[value]

    def make_outputs(self, graph: ir.Graph) -> None:
        """Has those of the graph's outputs made from [S, B, ...] that can be."""
        for index, output in enumerate(list(graph.outputs)):
            node = output.producer()
            if self.leads(output) and len(known_dims(output)) > 2 and node is not None and self.possible(output):
                twin = self.of(output)
                back = Builder(node).transpose(twin, _swapped(twin))
                back.name, output.name = output.name, f"{output.name}.batch_first"
                graph.outputs[index] = back

    def give_back(self, graph: ir.Graph) -> None:
        """Rule 3."""
        made = {twin.producer() for twin in self._made.values()}
        replaced = {value.producer() for value in self._made if len(known_dims(value)) > 2}
        others = set(graph) - made - replaced
        for value, twin in self._made.items():
            readers = [use for use in value.uses() if use.node in others]
            if len(known_dims(value)) > 2 and readers:
                back = Builder(readers[0].node).transpose(twin, _swapped(twin))
                for use in readers:
                    use.node.replace_input_with(use.idx, back)

    def _outputs(self, node: ir.Node) -> list[ir.Value]:
        build, reads = Builder(node), self._reads(node)
        assert reads is not None
        if node.op_type == "Transpose":
            assert node.inputs[0] is not None
            first, second, *others = permutation(node)
            return [build.transpose(node.inputs[0], [second, first, *others])]
        inputs = list(node.inputs)
        for index, value in enumerate(node.inputs):
            if value in reads.twins:
                inputs[index] = self.of(value)
            elif value in reads.swapped:
                inputs[index] = build.transpose(value, _swapped(value))
        shapes = []
        for output in node.outputs:
            batch, length, *rest = known_dims(output)
            shapes.append([length, batch, *rest])
        if node.op_type == "Reshape":
            assert inputs[0] is not None
            return [build.reshape(inputs[0], shapes[0])]
        outputs = [ir.Value(shape=ir.Shape(shape), type=output.type) for shape, output in zip(shapes, node.outputs, strict=True)]
        build.graph.insert_before(node, ir.node(node.op_type, inputs, attributes=node.attributes, outputs=outputs))
        return outputs

    def _reads(self, node: ir.Node) -> _Reads | None:
        """What the twin of `node` would read; None where `node` does not treat both axes alike."""
        if node.op_type == "Transpose":
            return _Reads()
        rules = _for_both_axes(node)
        if rules is None:
            return None
        reads = _Reads()
        for index, value in enumerate(node.inputs):
            axes = tuple(rule.inputs.get(index) for rule in rules)
            if value is None or axes == (None, None):
                continue
            if axes == (0, 1) and self.leads(value) and (value.producer() is not None or len(known_dims(value)) == 2):
                reads.twins.append(value)
            elif axes in {(0, 1), (0, None), (None, 1)} and len(known_dims(value)) > 1:
                reads.swapped.append(value)
            else:
                return None
        return reads


@dataclass
class _Reads:
    """What an operation reads that is not the same for all tokens: values [B, S, ...], and those with one of the two axes."""

    twins: list[ir.Value] = field(default_factory=list)
    swapped: list[ir.Value] = field(default_factory=list)


def _for_both_axes(node: ir.Node) -> tuple[Rule, Rule] | None:
    """The rules of row selection for axis 0 and axis 1, where the operation treats both axes alike."""
    if node.op_type not in RULES or selected_axis(node) is not None:
        return None
    if node.op_type == "MatMul" and len(known_dims(node.inputs[1])) != 2:  # type: ignore[arg-type]
        return None
    first, second = (RULES[node.op_type](node, axis) for axis in (0, 1))
    return None if first is None or second is None else (first, second)


def _swapped(value: ir.Value) -> list[int]:
    return [1, 0, *range(2, len(known_dims(value)))]
