"""The pass that computes products over all tokens in int8."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, known_dims
from cls_exporter.graph.passes.smoothing import ChannelRange
from cls_exporter.graph.passes.token_rows import token_products

Float32 = NDArray[np.float32]
_LARGEST_BIAS = 2.0**30  # of an int32 that the kernel still adds products to


class StaticQuantization(ir.passes.InPlacePass):
    """Puts `QuantizeLinear` and `DequantizeLinear` around the products over all tokens; engines turn the three into an int8 kernel.

    1. The input is uint8 with one scale and zero point from `ranges`, which no batch changes. Products that read the same value share it.
    2. A weight [K, N] is int8 with a scale for each column, symmetric. A weight that several products read is stored once.
    3. A bias [N] is int32 in units of input scale times weight scale: the kernel adds it before it scales.

    `weight_bits=7` keeps weights within -63 .. 63. A CPU without VNNI adds two products uint8 x int8 in 16 bits: 2 * 255 * 63 fits, so it
    computes the same as one with VNNI; 2 * 255 * 127 does not.
    """

    def __init__(self, ranges: Mapping[str, ChannelRange], *, weight_bits: int) -> None:
        self.ranges = ranges
        self.weight_bits = weight_bits

    def call(self, model: ir.Model) -> Rewritten:
        products = [node for node in token_products(model) if not _is_quantized(node)]
        quantize_products(products, self.ranges, weight_bits=self.weight_bits)
        return Rewritten.of(model, len(products))


def quantize_products(products: Sequence[ir.Node], ranges: Mapping[str, ChannelRange], *, weight_bits: int) -> None:
    """Quantizes these products of one graph, in place; the rules are `StaticQuantization`'s."""
    inputs = {id(node.inputs[0]): _activation(ranges, node) for node in products}
    weights = {id(node.inputs[1]): node.inputs[1] for node in products}
    stored = {key: _stored(weight, weight_bits, products, inputs) for key, weight in weights.items() if weight is not None}
    quantized: dict[int, ir.Value] = {}
    dequantized: dict[int, ir.Value] = {}
    for node in products:
        value, weight = node.inputs[:2]
        activation = inputs[id(value)]
        if id(value) not in quantized:
            quantized[id(value)] = _quantize(Builder(node), value, activation)  # type: ignore[arg-type]
        if id(weight) not in dequantized:
            dequantized[id(weight)] = _dequantize(Builder(node), stored[id(weight)], axis=1)
        if len(node.inputs) > 2:
            bias = _stored_bias(node, activation, stored[id(weight)])
            node.replace_input_with(2, _dequantize(Builder(node), bias, axis=0))
        node.replace_input_with(0, quantized[id(value)])
        node.replace_input_with(1, dequantized[id(weight)])


@dataclass(frozen=True)
class Activation:
    """An input's scale and zero point: `x = scale * (uint8 - zero_point)`."""

    scale: np.float32
    zero_point: np.uint8


@dataclass(frozen=True)
class Stored:
    """An integer tensor with a scale for each index of its last axis."""

    name: str
    integers: NDArray[np.signedinteger]
    scales: Float32


def _is_quantized(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.producer() is not None


def _activation(ranges: Mapping[str, ChannelRange], node: ir.Node) -> Activation:
    value = node.inputs[0]
    found = ranges.get(value.name or "") if value is not None else None
    if found is None:
        raise GraphError(f"no range was calibrated for {value.name if value is not None else node.name}")
    low, high = min(float(found.low.min()), 0.0), max(float(found.high.max()), 0.0)
    scale = np.float32(max(high - low, 1e-6) / 255)
    return Activation(scale, np.uint8(np.clip(np.rint(-low / scale), 0, 255)))


def _stored(weight: ir.Value, bits: int, products: Sequence[ir.Node], inputs: Mapping[int, Activation]) -> Stored:
    array = constant(weight)
    if array is None:
        raise GraphError(f"{weight.name} is not a constant")
    most = 2 ** (bits - 1) - 1
    scales = np.maximum(np.abs(array).max(0) / most, np.finfo(np.float32).tiny)
    for node in products:
        bias = constant(node.inputs[2]) if len(node.inputs) > 2 else None
        if node.inputs[1] is weight and bias is not None:
            scales = np.maximum(scales, np.abs(bias) / (inputs[id(node.inputs[0])].scale * _LARGEST_BIAS))
    scales = scales.astype(np.float32)
    return Stored(str(weight.name), np.clip(np.rint(array / scales), -most, most).astype(np.int8), scales)


def _stored_bias(node: ir.Node, activation: Activation, weight: Stored) -> Stored:
    value = node.inputs[2]
    array = constant(value)
    if value is None or array is None:
        raise GraphError(f"the bias of {node.name} is not a constant")
    scales = (activation.scale * weight.scales).astype(np.float32)
    scales = np.maximum(scales, np.finfo(np.float32).tiny)
    return Stored(str(value.name), np.rint(array / scales.astype(np.float64)).astype(np.int32), scales)


def _quantize(build: Builder, value: ir.Value, activation: Activation) -> ir.Value:
    scale = build.initializer(np.array(activation.scale, dtype=np.float32), f"{value.name}.scale")
    zero_point = build.initializer(np.array(activation.zero_point, dtype=np.uint8), f"{value.name}.zero_point")
    shape = known_dims(value)
    integers = build.node("QuantizeLinear", [value, scale, zero_point], shape, dtype=ir.DataType.UINT8, name=f"{value.name}.quantized")
    return build.node("DequantizeLinear", [integers, scale, zero_point], shape, dtype=ir.DataType.FLOAT)


def _dequantize(build: Builder, stored: Stored, *, axis: int) -> ir.Value:
    integers = build.initializer(stored.integers, f"{stored.name}.{stored.integers.dtype}")
    scales = build.initializer(stored.scales, f"{stored.name}.scale")
    # One for each weight: ONNX Runtime's session.x64quantprecision rewrites it, and refuses to do so twice.
    zero_points = build.initializer(np.zeros(len(stored.scales), dtype=stored.integers.dtype), f"{stored.name}.zero_point")
    inputs = [integers, scales, zero_points]
    return build.node("DequantizeLinear", inputs, stored.integers.shape, dtype=ir.DataType.FLOAT, attributes={"axis": axis})
