"""The pass that quantizes a graph of batches as its twin on rows was quantized."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.errors import GraphError
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, constant, known_dims, produced_by, single_consumer
from cls_exporter.graph.passes.token_rows import batched_products, token_products


class BatchedQuantization(ir.passes.InPlacePass):
    """Gives the products over all tokens of a graph [B, S, K] the integers of the same products of a quantized graph on rows.

    1. `MatMul(x [B, S, K], W)` reads x and W as the twin's Gemm of the same weight does: x through the same Mul of smoothing,
       QuantizeLinear and DequantizeLinear, W through DequantizeLinear of the same integers.
    2. Its bias is the twin's, in float32, in an Add behind it.
    3. Other weights that smoothing changed (a LayerNormalization's) are the twin's too.

    OpenVINO computes this form faster than rows: it fuses a quantizer into the operator in front of it only where no Reshape is between.
    `twin` is the graph that `TokenRows` and `StaticQuantization` made of the same model.
    """

    def __init__(self, twin: ir.Model) -> None:
        self.twin = twin

    def call(self, model: ir.Model) -> Rewritten:
        products: defaultdict[str, list[_Product]] = defaultdict(list)
        for gemm in token_products(self.twin):
            product = _product(gemm)
            products[product.weight_name].append(product)
        matmuls = [node for node in batched_products(model) if (node.inputs[1].name or "") in products]  # type: ignore[union-attr]
        smoothed: dict[tuple[ir.Value, str], ir.Value] = {}
        for matmul in matmuls:
            _quantize(matmul, products[str(matmul.inputs[1].name)].pop(0), smoothed)  # type: ignore[union-attr]
        if left := [name for name, unused in products.items() if unused]:
            raise GraphError(f"{len(left)} quantized products have no twin in the graph of batches, {left[0]} among them; please report it")
        if matmuls:
            _take_over_weights(self.twin, model)
        return Rewritten.of(model, len(matmuls))


@dataclass(frozen=True)
class _Product:
    """A quantized product on rows: the constants that it reads. `smoothing` divides its input where that is an operator of its own."""

    weight_name: str
    input_name: str
    smoothing: NDArray[np.generic] | None
    quantizer: tuple[NDArray[np.generic], ...]
    weight: tuple[NDArray[np.generic], ...]
    bias: NDArray[np.float32]


def _product(gemm: ir.Node) -> _Product:
    activation, weight, bias = (produced_by(value, "DequantizeLinear") for value in gemm.inputs)
    quantizer = None if activation is None else produced_by(activation.inputs[0], "QuantizeLinear")
    if quantizer is None or weight is None or bias is None or quantizer.inputs[0] is None:
        raise GraphError(f"the product {gemm.outputs[0].name} is not quantized, expected QuantizeLinear in front of it")
    value = quantizer.inputs[0]
    smoothing = produced_by(value, "Mul") if str(value.name).endswith(".smoothed") else None
    units, scales = (constant(item) for item in bias.inputs[:2])
    return _Product(
        weight_name=str(weight.inputs[0].name).removesuffix(".int8"),  # type: ignore[union-attr]
        input_name=str(value.name),
        smoothing=None if smoothing is None else constant(smoothing.inputs[1]),
        quantizer=_constants(quantizer.inputs[1:]),
        weight=_constants(weight.inputs),
        bias=(np.asarray(units, dtype=np.float64) * np.asarray(scales, dtype=np.float64)).astype(np.float32),
    )


def _constants(values: Sequence[ir.Value | None]) -> tuple[NDArray[np.generic], ...]:
    arrays = [constant(value) for value in values]
    return tuple(array for array in arrays if array is not None)


def _quantize(matmul: ir.Node, product: _Product, smoothed: dict[tuple[ir.Value, str], ir.Value]) -> None:
    hidden, weight = matmul.inputs
    assert hidden is not None
    assert weight is not None
    build = Builder(matmul)
    key = (hidden, product.input_name)
    if key not in smoothed:
        smoothed[key] = _quantized_input(build, hidden, product)
    integers, scales, zero_points = product.weight
    parameters = [
        build.initializer(integers, f"{weight.name}.int8"),
        build.initializer(scales, f"{weight.name}.scale"),
        build.initializer(zero_points, f"{weight.name}.zero_point"),
    ]
    columns = build.node("DequantizeLinear", parameters, integers.shape, dtype=ir.DataType.FLOAT, attributes={"axis": 1})
    matmul.replace_input_with(0, smoothed[key])
    matmul.replace_input_with(1, columns)
    _set_bias(matmul, product.bias)


def _quantized_input(build: Builder, hidden: ir.Value, product: _Product) -> ir.Value:
    value, shape, name = hidden, known_dims(hidden), product.input_name
    if product.smoothing is not None:
        value = build.node("Mul", [hidden, build.initializer(product.smoothing, f"{name}.smoothing")], shape, name=name)
    scale, zero_point = product.quantizer
    parameters = [build.initializer(scale, f"{name}.scale"), build.initializer(zero_point, f"{name}.zero_point")]
    integers = build.node("QuantizeLinear", [value, *parameters], shape, dtype=ir.DataType.UINT8, name=f"{name}.quantized")
    return build.node("DequantizeLinear", [integers, *parameters], shape, dtype=ir.DataType.FLOAT)


def _set_bias(matmul: ir.Node, bias: NDArray[np.float32]) -> None:
    """Rule 2: in place of the bias that is there, or in an Add of its own."""
    output = matmul.outputs[0]
    add = single_consumer(output)
    build = Builder(matmul)
    corrected = build.initializer(bias, f"{output.name}.corrected_bias")
    if add is not None and add.op_type == "Add" and not add.domain:
        place = 1 - list(add.inputs).index(output)
        array = constant(add.inputs[place])
        if array is not None and array.ndim == 1:
            add.replace_input_with(place, corrected)
            return
    made = ir.Value(shape=output.shape, type=output.type)
    if output.is_graph_output():
        made.name, output.name = output.name, f"{output.name}.product"
    output.replace_all_uses_with(made, replace_graph_outputs=True)
    build.graph.insert_after(matmul, ir.node("Add", [output, corrected], outputs=[made]))


def _take_over_weights(twin: ir.Model, model: ir.Model) -> None:
    """Rule 3."""
    for name, value in model.graph.initializers.items():
        changed = constant(twin.graph.initializers.get(name))
        array = constant(value)
        if changed is not None and array is not None and changed.shape == array.shape and not np.array_equal(changed, array):
            value.const_value = ir.tensor(np.array(changed), name=name)
