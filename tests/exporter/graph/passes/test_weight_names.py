"""Weights get the names of their biases."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.weight_names import WeightNames


def linear(bias_name: str, *, adds: int = 1) -> ir.Model:
    """`x @ val_1 + bias`, the bias read by `adds` additions."""
    x = ir.Value(name="x", shape=ir.Shape(["batch_size", 2]), type=ir.TensorType(ir.DataType.FLOAT))
    weight = ir.Value(name="val_1", const_value=ir.tensor(np.eye(2, dtype=np.float32), name="val_1"))
    bias = ir.Value(name=bias_name, const_value=ir.tensor(np.ones(2, dtype=np.float32), name=bias_name))
    nodes = [ir.node("MatMul", [x, weight])]
    for _ in range(adds):
        nodes.append(ir.node("Add", [nodes[-1].outputs[0], bias]))
    nodes[-1].outputs[0].name = "y"
    graph = ir.Graph([x], [nodes[-1].outputs[0]], nodes=nodes, initializers=[weight, bias], opset_imports={"": 20}, name="linear")
    return ir.Model(graph, ir_version=10)


def test_a_weight_is_named_after_its_bias_once():
    model = linear("encoder.layer.0.query.bias")
    assert WeightNames()(model).count == 1
    assert set(model.graph.initializers) == {"encoder.layer.0.query.weight", "encoder.layer.0.query.bias"}
    assert model.graph.initializers["encoder.layer.0.query.weight"].name == "encoder.layer.0.query.weight"
    assert WeightNames()(model).count == 0
    proto = ir.to_proto(model)
    assert {item.name for item in proto.graph.initializer} == set(model.graph.initializers)


@pytest.mark.parametrize("model", [linear("val_2"), linear("shared.bias", adds=2)], ids=["bias without a name", "shared bias"])
def test_a_weight_keeps_its_name_where_the_bias_does_not_tell(model):
    assert WeightNames()(model).count == 0
    assert "val_1" in model.graph.initializers
