"""The pass that lays the tokens of a batch out as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Dim, Rewritten, constant, dims, known_dims, produced_by, single_consumer
from cls_exporter.graph.passes.row_selection import selected_axis

ROWS = "batch_size*sequence_length"
_ROWWISE = frozenset("Add Sub Mul Div Gelu Relu Tanh Sigmoid Erf Elu LeakyRelu HardSwish Mish Sqrt Pow LayerNormalization".split())


class TokenRows(ir.passes.InPlacePass):
    """Computes every product over all tokens as a `Gemm` on [B*S, H] rows.

    1. `MatMul(x [B, S, K], W [K, N])`, with or without `Add(.., b [N])` behind it, becomes `Gemm(rows [B*S, K], W, b)`.
    2. An operation that works on each token alone and reads such rows computes rows too.
    3. Whoever else reads a value gets it back as [B, S, N]; a Reshape behind it starts from the rows.
    4. A product of the hidden states that the last layer selects its row from stays as it is: that layer is not quantized.
    5. So does a product whose weight is named in `kept`.
    6. Behind `SequenceFirst` all of this holds with [S, B, ...] for [B, S, ...].

    A quantized Gemm adds the bias inside its kernel, and neither ONNX Runtime's BiasGelu nor its SkipLayerNormalization takes
    the place of faster operators (docs/adr/0003-int8-recipe.md has the figures).
    """

    def __init__(self, *, kept: Collection[str] = ()) -> None:
        self.kept = frozenset(kept)

    def call(self, model: ir.Model) -> Rewritten:
        layout = _Layout(model.graph)
        count = 0
        for node in list(model.graph):
            if node.graph is None or node.domain:
                continue
            if layout.is_product_over_tokens(node) and str(node.inputs[1].name) not in self.kept:  # type: ignore[union-attr]
                layout.as_gemm(node)
                count += 1
            elif layout.works_on_rows(node):
                layout.as_rows(node)
            elif node.op_type == "Reshape":
                layout.from_rows(node)
        return Rewritten.of(model, count)


def batched_products(model: ir.Model) -> list[ir.Node]:
    """The products that the pass would make of: every `MatMul(x [B, S, K], W)` over all tokens, in graph order."""
    layout = _Layout(model.graph)
    return [node for node in model.graph if not node.domain and layout.is_product_over_tokens(node)]


def token_products(model: ir.Model) -> list[ir.Node]:
    """The products that the pass made: every Gemm over all tokens, in graph order."""
    return [node for node in model.graph if node.op_type == "Gemm" and dims(node.outputs[0]) is not None and _is_rows(node.outputs[0])]


def _is_rows(value: ir.Value) -> bool:
    return known_dims(value)[0] == ROWS


class _Layout:
    """Which values of a graph exist as rows, and how to get from one form to the other."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        ids = next((value for value in graph.inputs if value.name == "input_ids"), None)
        if ids is None:
            raise GraphError("the graph has no input input_ids")
        swapped = next((node.outputs[0] for node in ids.consumers() if node.op_type == "Transpose"), None)
        self._ids = ids if swapped is None else swapped
        self._sequence_axis = 1 if swapped is None else 0
        self.tokens = known_dims(self._ids)
        self._rows: dict[ir.Value, ir.Value] = {}
        self._targets: dict[tuple[Dim, ...], ir.Value] = {}
        self._shape: ir.Value | None = None

    def is_product_over_tokens(self, node: ir.Node) -> bool:
        """Rules 1 and 4."""
        if node.op_type != "MatMul" or node.inputs[0] is None or len(known_dims(node.inputs[0])) != 3:
            return False
        weight = constant(node.inputs[1])
        if weight is None or weight.ndim != 2 or weight.dtype != "float32" or known_dims(node.inputs[0])[:2] != self.tokens:
            return False
        return not any(selected_axis(reader) == self._sequence_axis for reader in node.inputs[0].consumers())

    def as_gemm(self, node: ir.Node) -> None:
        hidden, weight = node.inputs
        assert hidden is not None
        last, bias = node, None
        add = single_consumer(node.outputs[0])
        if add is not None and add.op_type == "Add" and not add.domain:
            bias = add.inputs[1 - list(add.inputs).index(node.outputs[0])]
            array = constant(bias)
            if array is not None and array.ndim == 1:
                last = add
            else:
                bias = None
        build = Builder(last)
        inputs = [self._as_matrix(build, hidden), weight] if bias is None else [self._as_matrix(build, hidden), weight, bias]
        width = known_dims(node.outputs[0])[2]
        self._give_back(last, build, build.node("Gemm", inputs, [ROWS, width], name=f"{last.outputs[0].name}.rows"))
        if last is not node:
            self._graph.remove(node, safe=True)

    def works_on_rows(self, node: ir.Node) -> bool:
        """Rule 2: it reads a value that exists as rows, and beside such values only what is the same for every token."""
        if node.op_type not in _ROWWISE or len(node.outputs) != 1 or len(dims(node.outputs[0]) or ()) != 3:
            return False
        if known_dims(node.outputs[0])[:2] != self.tokens:
            return False
        full = [value for value in node.inputs if value is not None and (dims(value) or ())[:2] == self.tokens]
        shared = [value for value in node.inputs if value is not None and value not in full]
        if any(constant(value) is None or len(known_dims(value)) > 1 for value in shared):
            return False
        return any(value in self._rows for value in full) and all(len(known_dims(value)) == 3 for value in full)

    def as_rows(self, node: ir.Node) -> None:
        build = Builder(node)
        inputs = [value if value is None or len(known_dims(value)) < 3 else self._as_matrix(build, value) for value in node.inputs]
        attributes = dict(node.attributes.items())
        output = ir.Value(
            name=f"{node.outputs[0].name}.rows", shape=ir.Shape([ROWS, known_dims(node.outputs[0])[2]]), type=node.outputs[0].type
        )
        self._graph.insert_before(node, ir.node(node.op_type, inputs, attributes=attributes, outputs=[output], name=node.name))
        self._give_back(node, build, output)

    def from_rows(self, node: ir.Node) -> None:
        """Rule 3 for a Reshape that splits the last axis of rows."""
        source = node.inputs[0]
        shape = dims(node.outputs[0])
        if source is None or source not in self._rows or shape is None or shape[:2] != self.tokens:
            return
        if not all(isinstance(dim, int) for dim in shape[2:]):
            return
        node.replace_input_with(0, self._rows[source])
        node.replace_input_with(1, self._target(shape))
        node.attributes.pop("allowzero", None)

    def _as_matrix(self, build: Builder, value: ir.Value) -> ir.Value:
        """`value` [B, S, N] as [B*S, N]."""
        if value not in self._rows:
            source, width = value, known_dims(value)[2]
            joined = produced_by(value, "Reshape")
            if joined is not None and joined.inputs[0] is not None and (dims(joined.inputs[0]) or ())[:2] == self.tokens:
                source = joined.inputs[0]  # heads that were joined to [B, S, N] become rows in one step
            target = build.shape_constant([-1, int(width)])
            self._rows[value] = build.node("Reshape", [source, target], [ROWS, width])
        return self._rows[value]

    def _give_back(self, node: ir.Node, build: Builder, rows: ir.Value) -> None:
        """Replaces `node`'s output by `rows` in the shape [B, S, N] that its readers know."""
        shape = known_dims(node.outputs[0])
        full = build.node("Reshape", [rows, self._target(shape)], shape)
        self._rows[full] = rows
        build.replace(node, full)

    def _target(self, shape: tuple[Dim, ...]) -> ir.Value:
        """A Reshape's target: B and S of this batch, then the constant dimensions of `shape`."""
        widths = shape[2:]
        if widths not in self._targets:
            build = Builder(next(iter(self._graph)))
            if self._shape is None:
                self._shape = build.node("Shape", [self._ids], [2], dtype=ir.DataType.INT64, name="tokens")
                build = Builder(next(node for node in self._graph if node.op_type != "Shape"))
            tail = build.ints([int(dim) for dim in widths], "width_" + "_".join(map(str, widths)))
            self._targets[widths] = build.node("Concat", [self._shape, tail], [len(shape)], attributes={"axis": 0})
        return self._targets[widths]
