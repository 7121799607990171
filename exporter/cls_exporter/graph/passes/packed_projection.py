"""The pass that takes a packed query-key-value projection apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.graph.passes.rewriting import Builder, Dim, Rewritten, constant, constant_ints, known_dims, permutation, produced_by


class PackedProjection(ir.passes.InPlacePass):
    """Splits one projection into query, key and value so that each can be pruned alone.

    1. `MatMul(x, W [H, 3*A*D])`, optionally `+ b`, then `Reshape [B, S, 3, A, D]`, then `Slice` i of axis 2 and `Squeeze`
       becomes `Reshape(MatMul(x, W_i) + b_i, [B, S, A, D])`.
    2. The same where heads and rows change places (`Transpose`) before the `Slice`; the Transpose then follows the Reshape.

    Rows of a packed projection cannot be pruned: the query needs one, the keys and values need all. A layer that keeps all three in full
    loses nothing measurable by three narrower products.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Squeeze" and not node.domain))


@dataclass(frozen=True)
class Packed:
    """`hidden [B, S, H] @ weight [H, parts*A*D] + bias`, of which one part is wanted as [B, S, A, D], or as [B, A, S, D]."""

    hidden: ir.Value
    weight: NDArray[np.generic]
    bias: NDArray[np.generic] | None
    name: str
    part: int
    shape: tuple[Dim, ...]
    heads_first: bool


def _rewrite(squeeze: ir.Node) -> bool:
    packed = _packed(squeeze)
    if packed is None:
        return False
    batch, length, parts, heads, size = packed.shape
    assert isinstance(parts, int)
    width = packed.weight.shape[1] // parts
    columns = slice(packed.part * width, (packed.part + 1) * width)
    name = f"{packed.name}.{('query', 'key', 'value')[packed.part] if parts == 3 else packed.part}"
    build = Builder(squeeze)
    value = build.node("MatMul", [packed.hidden, build.initializer(packed.weight[:, columns], name)], [batch, length, width])
    if packed.bias is not None:
        value = build.node("Add", [value, build.initializer(packed.bias[columns], f"{name}.bias")], [batch, length, width])
    value = build.reshape(value, [batch, length, heads, size])
    build.replace(squeeze, build.transpose(value, [0, 2, 1, 3]) if packed.heads_first else value)
    return True


def _packed(squeeze: ir.Node) -> Packed | None:
    index = _part_of_axis_2(squeeze)
    part = produced_by(squeeze.inputs[0], "Slice")
    if index is None or part is None:
        return None
    swap = produced_by(part.inputs[0], "Transpose")
    heads_first = swap is not None and permutation(swap) == (0, 3, 2, 1, 4)
    reshape = produced_by(swap.inputs[0] if swap is not None and heads_first else part.inputs[0], "Reshape")
    shape = () if reshape is None else known_dims(reshape.outputs[0])
    if reshape is None or not all(isinstance(dim, int) for dim in shape[2:]):
        return None
    projected, bias = reshape.inputs[0], None
    add = produced_by(projected, "Add")
    if add is not None:
        bias, projected = constant(add.inputs[1]), add.inputs[0]
        if bias is None or bias.ndim != 1:
            return None
    matmul = produced_by(projected, "MatMul")
    weight = constant(matmul.inputs[1]) if matmul is not None else None
    if matmul is None or matmul.inputs[0] is None or weight is None or weight.ndim != 2:
        return None
    if known_dims(matmul.outputs[0]) != (*shape[:2], weight.shape[1]) or (bias is not None and len(bias) != weight.shape[1]):
        return None
    name = getattr(matmul.inputs[1], "name", None) or "packed"
    return Packed(matmul.inputs[0], weight, bias, name, index, shape, heads_first)


def _part_of_axis_2(squeeze: ir.Node) -> int | None:
    """i where `squeeze` is `x[:, :, i]` of a value with five dimensions, else None."""
    part = produced_by(squeeze.inputs[0], "Slice")
    if part is None or len(part.inputs) < 4 or part.inputs[0] is None or len(squeeze.inputs) < 2:
        return None
    source, sliced = known_dims(part.inputs[0]), known_dims(part.outputs[0])
    starts, axes, squeezed = (constant_ints(value) for value in (part.inputs[1], part.inputs[3], squeeze.inputs[1]))
    if len(source) != 5 or sliced[2] != 1 or starts is None or axes not in ((2,), (-3,)) or squeezed not in ((2,), (-3,)):
        return None
    return starts[0] % source[2] if isinstance(source[2], int) else None
