"""The pass that computes products over all tokens in int8."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, known_dims
from cls_exporter.graph.passes.token_rows import token_products

Float32 = NDArray[np.float32]
_Numbers = TypeVar("_Numbers")


@dataclass(frozen=True)
class InputScale:
    """A product's input in steps: `x = scale * (uint8 - zero_point)`."""

    scale: np.float32
    zero_point: np.uint8


@dataclass(frozen=True)
class QuantizedWeight:
    """A weight [K, N] as `integers * scales`: int8 [K, N] and float32 [N]."""

    integers: NDArray[np.int8]
    scales: Float32


class StaticQuantization(ir.passes.InPlacePass):
    """Puts `QuantizeLinear` and `DequantizeLinear` around the products over all tokens; engines turn the three into an int8 kernel.

    1. The input is uint8 with one scale and zero point, which no batch changes. Products that read the same value share it.
    2. A weight [K, N] is int8 with a scale for each column, symmetric. A weight that several products read is stored once.
    3. A bias [N] is int32 in units of input scale times weight scale: the kernel adds it before it scales.

    `inputs` are by the name of the value that a product reads, `weights` by the weight's name.
    """

    def __init__(self, inputs: Mapping[str, InputScale], weights: Mapping[str, QuantizedWeight]) -> None:
        self.inputs = inputs
        self.weights = weights

    def call(self, model: ir.Model) -> Rewritten:
        quantized: dict[ir.Value, ir.Value] = {}
        dequantized: dict[ir.Value, ir.Value] = {}
        products = [node for node in token_products(model) if not _is_quantized(node)]
        for node in products:
            value, weight = node.inputs[:2]
            assert value is not None
            assert weight is not None
            scale, integers = _of(self.inputs, value), _of(self.weights, weight)
            if len(node.inputs) > 2:
                node.replace_input_with(2, _bias(node, scale, integers))
            if value not in quantized:
                quantized[value] = _quantize(Builder(node), value, scale)
            if weight not in dequantized:
                dequantized[weight] = _dequantize(Builder(node), str(weight.name), integers.integers, integers.scales, axis=1)
            node.replace_input_with(0, quantized[value])
            node.replace_input_with(1, dequantized[weight])
        return Rewritten.of(model, len(products))


def _is_quantized(node: ir.Node) -> bool:
    weight = node.inputs[1]
    return weight is not None and weight.producer() is not None


def _of(numbers: Mapping[str, _Numbers], value: ir.Value) -> _Numbers:
    name = str(value.name)
    if name not in numbers:
        raise GraphError(f"{name} was not calibrated")
    return numbers[name]


def _bias(node: ir.Node, scale: InputScale, weight: QuantizedWeight) -> ir.Value:
    """Rule 3."""
    value = node.inputs[2]
    array = constant(value)
    if value is None or array is None:
        raise GraphError(f"the bias of {node.name} is not a constant")
    scales = np.maximum((scale.scale * weight.scales).astype(np.float32), np.finfo(np.float32).tiny)
    integers = np.rint(array / scales.astype(np.float64)).astype(np.int32)
    return _dequantize(Builder(node), str(value.name), integers, scales, axis=0)


def _quantize(build: Builder, value: ir.Value, scale: InputScale) -> ir.Value:
    parameters = [
        build.initializer(np.array(scale.scale, dtype=np.float32), f"{value.name}.scale"),
        build.initializer(np.array(scale.zero_point, dtype=np.uint8), f"{value.name}.zero_point"),
    ]
    shape = known_dims(value)
    integers = build.node("QuantizeLinear", [value, *parameters], shape, dtype=ir.DataType.UINT8, name=f"{value.name}.quantized")
    return build.node("DequantizeLinear", [integers, *parameters], shape, dtype=ir.DataType.FLOAT)


def _dequantize(build: Builder, name: str, integers: NDArray[np.signedinteger], scales: Float32, *, axis: int) -> ir.Value:
    inputs = [
        build.initializer(integers, f"{name}.{integers.dtype}"),
        build.initializer(scales, f"{name}.scale"),
        # One for each weight: session.x64quantprecision, which another program may set, rewrites it, and refuses to do so twice.
        build.initializer(np.zeros(len(scales), dtype=integers.dtype), f"{name}.zero_point"),
    ]
    return build.node("DequantizeLinear", inputs, integers.shape, dtype=ir.DataType.FLOAT, attributes={"axis": axis})
