"""Embedding tables as int8 with a scale for each row."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.int8_embeddings import Int8Embeddings

TABLE = graphs.random_weights(T=(64, 64), Small=(8, 8))


def lookup(body: str, *, table: str = "T", width: int = 64) -> ir.Model:
    text = f"g (int64[B,S] input_ids) => (float[B,S,{width}] y) {{ {body} }}"
    return graphs.parse(text, {table: TABLE[table]})


def test_a_table_becomes_int8_rows_within_half_a_step() -> None:
    model = lookup("y = Gather<axis = 0>(T, input_ids)")
    step = float((np.abs(TABLE["T"]).max(1) / 127).max())
    assert graphs.fires(Int8Embeddings, model, tolerance=step / 2 + 1e-6) == 1
    assert graphs.operators(model) == ["Gather", "Cast", "Gather", "Mul"]
    stored = model.graph.initializers["T.int8"].const_value
    assert stored is not None
    assert stored.numpy().dtype == np.int8


def test_a_row_of_zeros_stays_zero() -> None:
    table = TABLE["T"].copy()
    table[1] = 0
    text = "g (int64[B,S] input_ids) => (float[B,S,64] y) { y = Gather<axis = 0>(T, input_ids) }"
    model = graphs.parse(text, {"T": table})
    Int8Embeddings()(model)
    rows = graphs.run(model, {"input_ids": np.array([[1, 0]], dtype=np.int64)})["y"]
    assert np.array_equal(rows[0, 0], np.zeros(64, dtype=np.float32))


@pytest.mark.parametrize(
    "model",
    [
        lookup("y = Gather<axis = 0>(Small, input_ids)", table="Small", width=8),
        lookup("x = Gather<axis = 0>(T, input_ids)  y = MatMul(x, T)"),
    ],
    ids=["small table", "table with another reader"],
)
def test_other_tables_stay_as_they_are(model: ir.Model) -> None:
    assert graphs.fires(Int8Embeddings, model) == 0
