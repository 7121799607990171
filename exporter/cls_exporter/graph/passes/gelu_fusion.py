"""The pass that recognises GELU's tanh approximation."""

from __future__ import annotations

import math

import onnx_ir as ir

from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant_scalar, dims, known_dims, produced_by


class GeluFusion(ir.passes.InPlacePass):
    """Fuses the decomposed tanh GELU (`gelu_new`) into ONNX's `Gelu(approximate="tanh")`.

    1. `0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` is `Gelu(x, approximate="tanh")`.

    The exact GELU is traced as one operator already. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415.
    """

    def call(self, model: ir.Model) -> Rewritten:
        return Rewritten.of(model, sum(_rewrite(node) for node in list(model.graph) if node.op_type == "Mul" and not node.domain))


def _rewrite(outer: ir.Node) -> bool:
    for half, gate in (outer.inputs, outer.inputs[::-1]):
        x = _scaled(half, 0.5)
        tanh = _shifted_tanh(gate)
        if x is not None and tanh is not None and dims(x) == dims(outer.outputs[0]) and _is_cubic(tanh.inputs[0], x):
            build = Builder(outer)
            build.replace(outer, build.node("Gelu", [x], known_dims(outer.outputs[0]), attributes={"approximate": "tanh"}))
            return True
    return False


def _scaled(value: ir.Value | None, factor: float) -> ir.Value | None:
    """x where `value` is `x * factor`."""
    mul = produced_by(value, "Mul")
    if mul is None:
        return None
    for x, scale in (mul.inputs, mul.inputs[::-1]):
        number = constant_scalar(scale)
        if number is not None and math.isclose(number, factor, rel_tol=1e-6):
            return x
    return None


def _shifted_tanh(value: ir.Value | None) -> ir.Node | None:
    """The Tanh where `value` is `tanh(..) + 1`."""
    add = produced_by(value, "Add")
    if add is None:
        return None
    for x, one in (add.inputs, add.inputs[::-1]):
        if constant_scalar(one) == 1.0:
            return produced_by(x, "Tanh")
    return None


def _is_cubic(value: ir.Value | None, x: ir.Value) -> bool:
    """Whether `value` is `sqrt(2 / pi) (x + 0.044715 x^3)`."""
    add = produced_by(_scaled(value, math.sqrt(2 / math.pi)), "Add")
    if add is None:
        return False
    for linear, cubic in (add.inputs, add.inputs[::-1]):
        power = produced_by(_scaled(cubic, 0.044715), "Pow")
        if linear is x and power is not None and power.inputs[0] is x and constant_scalar(power.inputs[1]) == 3.0:
            return True
    return False
