"""The pass that computes a graph in float16, except where float16 would overflow or lose what matters."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, constant_scalar, known_dims, produced_by, single_consumer

LARGEST_HALF = float(np.finfo(np.float16).max)
# Arithmetic on numbers of tokens and positions: what these make of integers and constants stays float32.
_ARITHMETIC = frozenset(
    {"Abs", "Add", "Ceil", "Clip", "Concat", "Cos", "Div", "Exp", "Expand", "Floor", "Identity", "Log", "MatMul", "Max", "Min", "Mul"}
    | {"Neg", "Pow", "ReduceSum", "Reshape", "Sin", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Transpose", "Unsqueeze"}
)
_LOSES = frozenset({"Softplus"})  # on the way to what float16 would hold
_ADDED_TO_SCORES = frozenset({"Add", "Sub", "Mul", "Div", "Where"})


class HalfPrecision(ir.passes.InPlacePass):
    """Turns a float32 graph into float16, weights and compute; inputs and outputs keep their types.

    1. Every float32 value and constant becomes float16, with a Cast where float16 meets float32.
    2. Arithmetic on positions stays float32: what is computed from integers and constants alone, as the logarithms of relative positions
       and the angles, sines and cosines of rotary embeddings. So do the constants named in `tables`, which hold such numbers.
    3. A rotation by such a table is computed in float32, from its products to the sum of the two.
    4. A Softmax, and what is added to its scores, is computed in float32. There a mask constant keeps its value.
    5. Elsewhere a `Where` that masks with a number below float16's range masks with the lowest float16. A mask that is computed from
       another is rule 2's, and is limited to the lowest float16 before it is cast.
    6. LayerNormalization keeps its statistics in float32 (`stash_type` 1).
    7. A sum over the tokens that a mask counts, and what divides it, is computed in float32.
    8. A Softplus is computed in float32: `log(1 + exp(x))` is 0 in float16 for x below -7. So are the operators named in `float32`.

    Raises:
        GraphError: a weight is beyond float16's range or not a number. Clamping it would silently make another model.
    """

    def __init__(self, *, tables: Collection[str] = (), float32: Collection[str] = ()) -> None:
        self.tables = frozenset(tables)
        self.float32 = frozenset(float32)

    def call(self, model: ir.Model) -> Rewritten:
        kept = _kept_nodes(model.graph, self.tables, self.float32)
        count = 0
        for node in list(model.graph):
            if node in kept:
                count += _as_float32(model.graph, node)
            else:
                count += _as_float16(model.graph, node)
        count += _float32_outputs(model.graph)
        return Rewritten.of(model, count)


def half(array: NDArray[np.generic], name: str) -> NDArray[np.float16]:
    """`array` rounded to float16.

    Numbers below 6e-5 keep fewer digits there, an absolute error of 3e-8 at most, and below 3e-8 they are zero; the parity gate sees it
    where it matters.

    Raises:
        GraphError: a number is beyond float16's range, or none.
    """
    largest = float(np.abs(array).max()) if array.size else 0.0
    if not largest <= LARGEST_HALF:  # a NaN too
        raise GraphError(f"fp16 cannot hold {name}: its largest number is {largest:.3g}, float16 ends at {LARGEST_HALF:.0f}; export fp32")
    return array.astype(np.float16)


def computed_in_float16(model: ir.Model, *, tables: Collection[str] = ()) -> list[ir.Value]:
    """The values of a float32 graph that `HalfPrecision` would compute in float16, constants and masks aside."""
    kept = _kept_nodes(model.graph, frozenset(tables), frozenset())
    return [
        value
        for node in model.graph
        if node not in kept and not _is_mask(node)
        for value in node.outputs
        if value.dtype == ir.DataType.FLOAT and value.uses()
    ]


def _kept_nodes(graph: ir.Graph, tables: frozenset[str], float32: frozenset[str]) -> set[ir.Node]:
    """The nodes of rules 2 to 4, 7 and 8, and those that this pass has kept before."""
    exact = _arithmetic(graph, tables)
    kept = {value.producer() for value in exact}
    for node in graph:
        if node.op_type == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == ir.DataType.FLOAT16:
            kept.add(node)
        if node.op_type in _LOSES or node.op_type in float32:
            kept.add(node)
        if node.op_type == "Softmax" and not node.domain:
            kept.add(node)
            kept |= _before_softmax(node)
        if node.op_type == "Mul" and node not in kept and any(item in exact for item in node.inputs):
            kept |= _rotation(node, exact) | _sum_of_counted(node)
    return {node for node in kept if node is not None}


def _arithmetic(graph: ir.Graph, tables: frozenset[str]) -> set[ir.Value]:
    """Rule 2: float32 values that depend on integers, small constants and `tables` alone."""
    exact: set[ir.Value] = set()
    for node in graph:  # in topological order
        floats = [item for item in node.inputs if item is not None and item.dtype == ir.DataType.FLOAT]
        made = [value for value in node.outputs if value.dtype == ir.DataType.FLOAT]
        from_integers = node.op_type == "Cast" and not node.domain and not floats and node.inputs[0].dtype != ir.DataType.FLOAT16  # type: ignore[union-attr]
        looked_up = node.op_type in {"Gather", "Slice"} and any(item.name in tables for item in floats)
        derived = (
            (node.op_type in _ARITHMETIC or node.op_type == "Where")
            and not node.domain
            and any(item in exact for item in floats)
            and all(item in exact or constant(item) is not None for item in floats)
        )
        if made and (from_integers or looked_up or derived):
            exact.update(made)
    return exact


def _before_softmax(softmax: ir.Node) -> set[ir.Node]:
    """Rule 4: from the scores' product on, each value read once."""
    before: set[ir.Node] = set()
    pending = [softmax.inputs[0]]
    while pending:
        value = pending.pop()
        node = None if value is None else value.producer()
        if value is None or node is None or node.domain or single_consumer(value) is None:
            continue
        if value.dtype == ir.DataType.FLOAT and node.op_type in _ADDED_TO_SCORES:
            before.add(node)
            pending.extend(node.inputs)
    return before


def _rotation(product: ir.Node, exact: set[ir.Value]) -> set[ir.Node]:
    """Rule 3: `x * cos` and the sum of it and `rotated(x) * sin`; empty where `product` is something else."""
    add = single_consumer(product.outputs[0])
    if add is None or add.op_type != "Add" or add.domain:
        return set()
    products = [produced_by(item, "Mul") for item in add.inputs]
    rotates = all(node is not None and any(item in exact for item in node.inputs) for node in products)
    return {add, *(node for node in products if node is not None)} if rotates else set()


def _sum_of_counted(product: ir.Node) -> set[ir.Node]:
    """Rule 7: `ReduceSum(x * counted)` and the quotient; empty where `product` is something else."""
    total = single_consumer(product.outputs[0])
    if total is None or total.op_type != "ReduceSum" or total.domain:
        return set()
    quotient = single_consumer(total.outputs[0])
    return {product, total, *([] if quotient is None or quotient.op_type != "Div" else [quotient])}


def _is_mask(node: ir.Node) -> bool:
    """Whether the node fills with constants only: one is 0, the other a mask's lowest number."""
    return node.op_type == "Where" and not node.domain and all(constant(item) is not None for item in node.inputs[1:])


def _as_float32(graph: ir.Graph, node: ir.Node) -> int:
    """Casts the float16 inputs of a kept node to float32; a constant keeps its type."""
    count = 0
    for index, value in enumerate(node.inputs):
        if value is None or node.op_type == "Cast" or constant(value) is not None:
            continue
        producer = value.producer()
        if value.dtype == ir.DataType.FLOAT16 and producer is not None:
            node.replace_input_with(index, _cast(graph, value, ir.DataType.FLOAT))
            count += 1
    return count


def _as_float16(graph: ir.Graph, node: ir.Node) -> int:
    """Rule 1 for a node: its float32 inputs, then its outputs."""
    changed = 0
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != ir.DataType.FLOAT or node.op_type == "Cast":
            continue
        array = constant(value)
        if array is None:
            limited = _limited(graph, value) if _holds_mask(value) else value
            node.replace_input_with(index, _cast(graph, limited, ir.DataType.FLOAT16))
        else:
            if _masks(node, index, array):
                array = np.maximum(array, -LARGEST_HALF)
            name = str(value.name)
            node.replace_input_with(index, Builder(node).initializer(half(array, name), f"{name}.float16"))
        changed = 1
    if node.op_type == "LayerNormalization" and not node.domain and changed:
        node.attributes["stash_type"] = ir.AttrInt64("stash_type", 1)
    if node.op_type == "Cast" and node.outputs[0].dtype != ir.DataType.FLOAT:
        return 0
    for output in node.outputs:
        if output.dtype == ir.DataType.FLOAT:
            output.type = ir.TensorType(ir.DataType.FLOAT16)
            changed = 1
    return changed


def _holds_mask(value: ir.Value) -> bool:
    """Whether a float32 value may hold the lowest number that a Where before it fills with."""
    node = value.producer()
    if node is None or node.op_type == "Softmax" or value.dtype != ir.DataType.FLOAT:
        return False
    arrays = [constant(item) for item in node.inputs]
    if any(array is not None and _masks(node, index, array) for index, array in enumerate(arrays)):
        return True
    return any(item is not None and _holds_mask(item) for item in node.inputs)


def _limited(graph: ir.Graph, value: ir.Value) -> ir.Value:
    """`value`, float32, with nothing below float16's range: a Cast would make minus infinity of it."""
    for use in value.uses():
        if use.node.op_type == "Max" and constant_scalar(use.node.inputs[-1]) == -LARGEST_HALF:
            return use.node.outputs[0]
    producer = value.producer()
    assert producer is not None, "graph inputs are integers"
    lowest = Builder(producer).initializer(np.array(-LARGEST_HALF, dtype=np.float32), "lowest_float16")
    output = ir.Value(name=f"{value.name}.limited", shape=value.shape, type=ir.TensorType(ir.DataType.FLOAT))
    graph.insert_after(producer, ir.node("Max", [value, lowest], outputs=[output]))
    return output


def _masks(node: ir.Node, index: int, array: NDArray[np.generic]) -> bool:
    """Rule 5: whether input `index` is the lowest number that a Where fills with."""
    return node.op_type == "Where" and index > 0 and array.size == 1 and float(array.reshape(-1)[0]) < -LARGEST_HALF


def _cast(graph: ir.Graph, value: ir.Value, kind: ir.DataType) -> ir.Value:
    """`value` as `kind`: one Cast for all that read it so, in front of the first of them."""
    for use in value.uses():
        if use.node.op_type == "Cast" and use.node.outputs[0].dtype == kind:
            return use.node.outputs[0]
    producer = value.producer()
    assert producer is not None, "graph inputs are integers"
    output = ir.Value(name=f"{value.name}.{kind.name.lower()}", shape=value.shape, type=ir.TensorType(kind))
    graph.insert_after(producer, ir.node("Cast", [value], attributes={"to": int(kind)}, outputs=[output]))
    return output


def _float32_outputs(graph: ir.Graph) -> int:
    """Gives each output that became float16 a Cast back to float32, and the output's name to it."""
    count = 0
    for index, output in enumerate(list(graph.outputs)):
        if output.dtype != ir.DataType.FLOAT16:
            continue
        name = output.name
        output.name = f"{name}.float16"
        graph.outputs[index] = _cast_at_the_end(graph, output)
        graph.outputs[index].name = name
        count += 1
    return count


def _cast_at_the_end(graph: ir.Graph, output: ir.Value) -> ir.Value:
    """`output` in float32: what a node that computes so reads of it, or a Cast behind all nodes."""
    for use in output.uses():
        if use.node.op_type == "Cast" and use.node.outputs[0].dtype == ir.DataType.FLOAT and not use.node.outputs[0].is_graph_output():
            return use.node.outputs[0]
    made = ir.Value(shape=ir.Shape(known_dims(output)), type=ir.TensorType(ir.DataType.FLOAT))
    graph.append(ir.node("Cast", [output], attributes={"to": int(ir.DataType.FLOAT)}, outputs=[made]))
    return made
