from __future__ import annotations

from typing import get_args

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from cls_exporter.config import Layout
from cls_exporter.graph.passes.output_layout import OutputLayout


def row_graph() -> ir.Model:
    text = """g (float[B,8] x, int64[B,S] attention_mask) => (float[B,8] sentence_embedding, float[B,8] pooler_output)
        { sentence_embedding = Neg(x)  pooler_output = Tanh(sentence_embedding) }"""
    return graphs.parse(text)


def outputs(model: ir.Model) -> list[tuple[str, list[int | str | None]]]:
    return [
        (str(output.name), [dim if isinstance(dim, int) else dim.value for dim in output.shape or ()]) for output in model.graph.outputs
    ]


ROW = ("sentence_embedding", ["batch_size", 8])
POOLED = ("pooler_output", ["batch_size", 8])


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        ("standard", [("last_hidden_state", ["batch_size", 1, 8]), ROW, POOLED]),
        ("broadcast", [("last_hidden_state", ["batch_size", "sequence_length", 8]), ROW, POOLED]),
        ("native", [ROW, POOLED]),
    ],
)
def test_outputs_in_the_order_of_the_contract(layout: Layout, expected: object) -> None:
    model = row_graph()
    feed = graphs.feed_for(model, batch=3, length=5)
    before = graphs.run(model, feed)
    result = OutputLayout(layout=layout)(model)
    assert (result.count, result.modified) == ((0, False) if layout == "native" else (1, True))
    assert outputs(model) == expected
    assert [value.dtype for value in model.graph.outputs] == [ir.DataType.FLOAT] * len(model.graph.outputs)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)

    after = graphs.run(model, feed)
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)
    if layout != "native":
        rows = 1 if layout == "standard" else 5
        np.testing.assert_array_equal(after["last_hidden_state"], np.repeat(before["sentence_embedding"][:, None], rows, axis=1))
    assert graphs.fires(lambda: OutputLayout(layout=layout), model, tolerance=0) == 0


def test_every_layout_of_the_configuration_is_tested() -> None:
    assert set(get_args(Layout)) == {"standard", "native", "broadcast"}
