"""Biases of keys and values, taken out of an attention."""

from __future__ import annotations

import graphs
import onnx_ir as ir
import pytest
from attention_graphs import CONTEXT, attention

from cls_exporter.graph.passes.attention_bias_folding import AttentionBiasFolding

OUTPUT = CONTEXT.replace("y =", "r =") + "  o = MatMul(r, wo)  y = Add(o, bo)"

SCALED_BEFORE = {"scaled": "", "terms": "m = Add(s, mask)"}


def additions(model: ir.Model) -> list[str | None]:
    """The biases that are added, in order."""
    graphs.operators(model)
    names = [value.name for node in model.graph if node.op_type == "Add" for value in node.inputs if value is not None]
    return [name for name in names if name is not None and name.startswith("b")]


def test_a_key_bias_cancels_and_a_value_bias_goes_into_the_outputs() -> None:
    model = attention(**SCALED_BEFORE, context=OUTPUT)
    assert additions(model) == ["bq", "bk", "bv", "bo"]
    assert graphs.fires(AttentionBiasFolding, model) == 2
    assert additions(model) == ["bq", "bo.folded"]


def test_a_bias_on_the_left_is_one_too() -> None:
    model = attention(**SCALED_BEFORE, context=OUTPUT.replace("Add(o, bo)", "Add(bo, o)"))
    assert graphs.fires(AttentionBiasFolding, model) == 2
    assert additions(model) == ["bq", "bo.folded"]


@pytest.mark.parametrize(
    "context",
    [
        CONTEXT,
        OUTPUT.replace("y = Add(o, bo)", "y = Identity(o)"),
        OUTPUT.replace("o = MatMul(r, wo)", "g = Gelu(r)  o = MatMul(g, wo)"),
    ],
    ids=["no product", "no bias of its own", "something between"],
)
def test_a_value_bias_stays_where_no_bias_follows(context: str) -> None:
    model = attention(**SCALED_BEFORE, context=context)
    assert graphs.fires(AttentionBiasFolding, model) == 1
    assert "bv" in additions(model)
    assert "bk" not in additions(model)


def test_a_rotated_key_keeps_its_bias() -> None:
    model = attention(**SCALED_BEFORE, keys="n = Neg(hk)  t2 = Add(hk, n)  k = Transpose <perm = [0, 2, 3, 1]> (t2)", context=OUTPUT)
    assert graphs.fires(AttentionBiasFolding, model) == 1
    assert "bk" in additions(model)


@pytest.mark.parametrize("read", ["fk", "fv"])
def test_a_sum_that_is_read_elsewhere_too_stays(read: str) -> None:
    model = attention(**SCALED_BEFORE, context=OUTPUT + f"  also = Identity({read})", outputs="float[B,S,8] y, float[B,S,8] also")
    assert graphs.fires(AttentionBiasFolding, model) == 1
    assert f"b{read[1]}" in additions(model)
