"""The pass that moves outlier channels from activations into weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, known_dims, permutation, produced_by, single_consumer
from cls_exporter.graph.passes.token_rows import token_products

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

# Factors are powers of two and seven steps in between. So coarse, a factor does not depend on the last bits of what was measured.
STEPS_IN_A_DOUBLING = 8


@dataclass(frozen=True)
class ChannelRange:
    """The smallest and the largest value of each channel of an activation, float64 [K] each."""

    low: Float64
    high: Float64

    @property
    def largest(self) -> Float64:
        """The largest magnitude of each channel, [K]."""
        return np.maximum(np.abs(self.low), np.abs(self.high))

    def divided(self, factors: Float32) -> ChannelRange:
        """The range of the activation after channel k is divided by `factors[k]` > 0."""
        return ChannelRange(self.low / factors, self.high / factors)


class Smoothing(ir.passes.InPlacePass):
    """Divides the input channels of products over all tokens by factors and multiplies the weights' rows by them.

    With x [B*S, K], W [K, N] and factors s [K], `x W = (x / s) (s W)`. The division is put where it costs least:

    1. Attention's context `p v`: into the columns of the value projection that makes v, and its bias.
    2. A LayerNormalization that only such products read: into its scale and bias.
    3. Otherwise (a post-LN encoder's residual reads the same value; GELU is not linear): one Mul for all products that read x.

    Products that share an input or a weight share their factors; `smoothing_factors` sees to it.
    Source: SmoothQuant, Xiao et al. 2023, arXiv:2211.10438.
    """

    def __init__(self, factors: Mapping[str, Float32]) -> None:
        self.factors = factors

    def call(self, model: ir.Model) -> Rewritten:
        inputs: dict[ir.Value, Float32] = {}
        weights: dict[ir.Value, Float32] = {}
        for product in token_products(model):
            value, weight = product.inputs[:2]
            factors = self.factors.get(str(value.name)) if value is not None else None
            if value is not None and weight is not None and factors is not None:
                inputs.setdefault(value, factors)
                weights.setdefault(weight, factors)
        for weight, factors in weights.items():
            _scale(weight, factors[:, None])
        for value, factors in inputs.items():
            _divide(model.graph, value, factors)
        return Rewritten.of(model, len(inputs))


def smoothing_factors(model: ir.Model, ranges: Mapping[str, ChannelRange], *, alpha: float, skip: Sequence[str] = ()) -> dict[str, Float32]:
    """The factors of each product's input, float32 [K] by the input's name: about `|x|^alpha / |W|^(1 - alpha)` of each channel.

    Args:
        model: a graph after `TokenRows`.
        ranges: each input's range over the calibration texts.
        alpha: how much of a channel's magnitude moves into the weights; 0 none, 1 all.
        skip: inputs that are left as they are.
    """
    factors: dict[str, Float32] = {}
    for names, weights in _groups(model):
        if any(name in skip for name in names):
            continue
        activation = np.max([ranges[name].largest for name in names], axis=0)
        weight = np.max([np.abs(array).max(1) for array in weights], axis=0).astype(np.float64)
        factors.update(dict.fromkeys(names, balance(activation, weight, alpha=alpha)))
    return factors


def balance(activation: Float64, weight: Float64, *, alpha: float) -> Float32:
    """What each channel of an input is divided by and its weights are multiplied with: about |x|^alpha / |W|^(1 - alpha), float32 [K].

    1 for a channel of which one or the other is next to nothing.
    """
    dead = (activation < 1e-5) | (weight < 1e-8)
    activation, weight = np.where(dead, 1.0, activation), np.where(dead, 1.0, weight)
    return _power_of_two(alpha * np.log2(activation) - (1 - alpha) * np.log2(weight))


def _power_of_two(exponents: Float64) -> Float32:
    """2 to the nearest of the steps, float32; every bit of it is the same on every machine."""
    eighth = math.sqrt(math.sqrt(math.sqrt(2.0)))  # a square root is rounded the same everywhere, a power is not
    between = np.cumprod([1.0, *[eighth] * (STEPS_IN_A_DOUBLING - 1)])
    steps = np.rint(exponents * STEPS_IN_A_DOUBLING).astype(np.int64)
    factors: Float32 = np.ldexp(between[steps % STEPS_IN_A_DOUBLING], steps // STEPS_IN_A_DOUBLING).astype(np.float32)
    return factors


def _groups(model: ir.Model) -> list[tuple[list[str], list[Float32]]]:
    """Inputs and weights that must have the same factors: the connected parts of "is multiplied by"."""
    parts: list[tuple[dict[str, None], dict[ir.Value, Float32]]] = []
    for product in token_products(model):
        value, weight = product.inputs[:2]
        array = constant(weight)
        if value is None or value.name is None or weight is None or array is None:
            raise GraphError(f"the product {product.name} has no constant weight")
        names: dict[str, None] = {value.name: None}
        weights: dict[ir.Value, Float32] = {weight: np.asarray(array, dtype=np.float32)}
        for part in [part for part in parts if value.name in part[0] or weight in part[1]]:
            names = {**part[0], **names}
            weights = {**part[1], **weights}
            parts.remove(part)
        parts.append((names, weights))
    return [(list(names), list(weights.values())) for names, weights in parts]


def _scale(weight: ir.Value, factors: NDArray[np.floating]) -> None:
    array = np.asarray(constant(weight), dtype=np.float32)
    weight.const_value = ir.tensor((array * factors).astype(np.float32), name=weight.name)


def _divide(graph: ir.Graph, value: ir.Value, factors: Float32) -> None:
    projection = _value_projection(value)
    if projection is not None:
        for parameter in projection.inputs[1:]:
            if parameter is not None:
                _scale(parameter, 1 / factors)
        return
    normalization = produced_by(value, "LayerNormalization")
    readers = [use.node for use in value.uses()]
    if normalization is not None and all(node.op_type == "Gemm" for node in readers) and not value.is_graph_output():
        parameters = [item for item in normalization.inputs[1:] if item is not None]
        if len(parameters) == len(normalization.inputs) - 1 and all(len(list(item.uses())) == 1 for item in parameters):
            for parameter in parameters:
                _scale(parameter, 1 / factors)
            return
    first = min((node for node in readers if node.op_type == "Gemm"), key=list(graph).index)
    build = Builder(first)
    reciprocal = build.initializer((1 / factors).astype(np.float32), f"{value.name}.smoothing")
    divided = build.node("Mul", [value, reciprocal], known_dims(value), name=f"{value.name}.smoothed")
    for use in list(value.uses()):
        if use.node.op_type == "Gemm" and use.idx == 0:
            use.node.replace_input_with(0, divided)


# From attention's context [B*S, A*D] up to the Gemm that makes v: operators, which of their inputs leads there, and how they may permute
# (with the batch or the sequence first).
_CONTEXT_TO_VALUES: tuple[tuple[str, int, tuple[tuple[int, ...], ...]], ...] = (
    ("Reshape", 0, ()),
    ("Transpose", 0, ((0, 2, 1, 3), (2, 0, 1, 3))),
    ("MatMul", 1, ()),
    ("Transpose", 0, ((0, 2, 1, 3), (1, 2, 0, 3))),
    ("Reshape", 0, ()),
)


def _value_projection(context: ir.Value) -> ir.Node | None:
    """The Gemm that makes v where `context` is `p v` with its heads joined; None where anything else reads v or has the same weights."""
    if not all(use.node.op_type == "Gemm" and use.idx == 0 for use in context.uses()):
        return None
    value = context
    for op_type, operand, perms in _CONTEXT_TO_VALUES:
        node = produced_by(value, op_type)
        if node is None or (perms and permutation(node) not in perms):
            return None
        source = node.inputs[operand]
        if source is None or single_consumer(source) is None:
            return None
        value = source
    projection = produced_by(value, "Gemm")
    if projection is None or any(parameter is None or len(list(parameter.uses())) != 1 for parameter in projection.inputs[1:]):
        return None
    return projection
