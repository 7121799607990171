from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter.graph.passes.padding_mask import PaddingMask

# Three ways of saying the same mask: kept for additive masks of transformers 4, of transformers 5, and with one row for every query.
SUBTRACTED = "f = Cast <to = 1> (attention_mask)  u = Unsqueeze(f, axes)  i = Sub(one, u)  mask = Mul(i, lowest)"
CHOSEN = "k = Cast <to = 9> (attention_mask)  u = Unsqueeze(k, axes)  mask = Where(u, zero, lowest)"
BY_QUERY = """k = Cast <to = 9> (attention_mask)  u = Unsqueeze(k, axes)  n = Shape <start = 1, end = 2> (attention_mask)
    b = Shape <start = 0, end = 1> (attention_mask)  to = Concat <axis = 0> (b, one_row, n, n)  wide = Expand(u, to)
    mask = Where(wide, zero, lowest)"""
WINDOW = """k = Cast <to = 9> (attention_mask)  u = Unsqueeze(k, axes)  n = Shape <start = 1, end = 2> (attention_mask)  m = Squeeze(n)
    r = Range(nought, m, step)  c = Unsqueeze(r, last)  d = Sub(c, r)  a = Abs(d)  near = LessOrEqual(a, reach)  both = And(u, near)
    mask = Where(both, zero, lowest)"""
FLOATS = {"one": 1.0, "zero": 0.0, "lowest": float(np.finfo(np.float32).min)}


def attention(
    mask: str, *, floats: dict[str, float] | None = None, after: str = "s = Add(scores, mask)", reach: int = 100, inputs: str = ""
) -> ir.Model:
    text = f"""g (float[B,2,S,S] scores, int64[B,S] attention_mask{inputs}) => (float[B,2,S,S] y)
        {{ {mask}  {after}  y = Softmax <axis = -1> (s) }}"""
    weights = {name: np.array(value, dtype=np.float32) for name, value in {**FLOATS, **(floats or {})}.items()}
    scalars = {name: np.array(value, dtype=np.int64) for name, value in {"nought": 0, "step": 1, "reach": reach}.items()}
    used = {**weights, **scalars, **graphs.integers({"axes": [1, 2], "one_row": [1], "last": [1]})}
    model = graphs.parse(text, used)
    for node in model.graph:  # ONNX's inference does not follow Shape to here; the tracer says every shape
        for output in node.outputs:
            if output.name == "mask" and mask in (BY_QUERY, WINDOW):
                output.shape = ir.Shape([graphs.BATCH, 1, graphs.SEQUENCE, graphs.SEQUENCE])
            if output.name == "s":
                output.shape = model.graph.outputs[0].shape
    return model


@pytest.mark.parametrize("mask", [SUBTRACTED, BY_QUERY, WINDOW], ids=["subtracted", "by query", "wide window"])
def test_a_padding_mask_is_recognised_by_its_values(mask: str) -> None:
    model = attention(mask)
    assert graphs.fires(PaddingMask, model, tolerance=1e-6) == 1
    assert graphs.operators(model) == ["Cast", "Unsqueeze", "Where", "Add", "Softmax"]


def test_the_plain_mask_stays() -> None:
    assert graphs.fires(PaddingMask, attention(CHOSEN)) == 0


def test_masks_of_two_layers_are_one() -> None:
    text = f"""g (float[B,2,S,S] scores, int64[B,S] attention_mask) => (float[B,2,S,S] y, float[B,2,S,S] z)
        {{ {SUBTRACTED}  s = Add(scores, mask)  y = Softmax <axis = -1> (s)  t = Add(mask, y)  z = Softmax <axis = -1> (t) }}"""
    floats = {name: np.array(FLOATS[name], dtype=np.float32) for name in ("one", "lowest")}
    model = graphs.parse(text, {**floats, **graphs.integers({"axes": [1, 2]})})
    assert graphs.fires(PaddingMask, model) == 1
    assert graphs.operators(model).count("Where") == 1


def test_a_mask_beside_a_position_bias() -> None:
    model = attention(SUBTRACTED, after="biased = Add(scores, bias)  s = Add(mask, biased)", inputs=", float[1,2,S,S] bias")
    assert graphs.fires(PaddingMask, model) == 1


def test_a_sliding_window_is_not_a_padding_mask() -> None:
    assert graphs.fires(PaddingMask, attention(WINDOW, reach=3)) == 0


@pytest.mark.parametrize(("name", "value"), [("lowest", -10000.0), ("one", 2.0)])
def test_other_numbers_are_another_mask(name: str, value: float) -> None:
    assert graphs.fires(PaddingMask, attention(SUBTRACTED, floats={name: value})) == 0


def test_a_mask_that_depends_on_the_ids_stays() -> None:
    mask = """k = Cast <to = 9> (attention_mask)  v = Cast <to = 9> (input_ids)  both = And(k, v)
        u = Unsqueeze(both, axes)  mask = Where(u, zero, lowest)"""
    assert graphs.fires(PaddingMask, attention(mask, inputs=", int64[B,S] input_ids")) == 0


def test_a_mask_that_is_not_added_to_scores_stays() -> None:
    text = f"g (float[B,2,S,S] x, int64[B,S] attention_mask) => (float[B,2,S,S] y) {{ {SUBTRACTED}  y = Add(x, mask) }}"
    floats = {name: np.array(FLOATS[name], dtype=np.float32) for name in ("one", "lowest")}
    assert graphs.fires(PaddingMask, graphs.parse(text, {**floats, **graphs.integers({"axes": [1, 2]})})) == 0


def test_other_readers_of_the_mask_keep_it() -> None:
    """A reader that is not the Add may need all of its rows."""
    text = f"""g (float[B,2,S,S] scores, int64[B,S] attention_mask) => (float[B,2,S,S] y, float[B,1,S,S] z)
        {{ {BY_QUERY}  s = Add(scores, mask)  y = Softmax <axis = -1> (s)  z = Relu(mask) }}"""
    floats = {name: np.array(FLOATS[name], dtype=np.float32) for name in ("zero", "lowest")}
    model = graphs.parse(text, {**floats, **graphs.integers({"axes": [1, 2], "one_row": [1]})})
    for node in model.graph:
        for output in node.outputs:
            if output.name in ("mask", "s"):
                output.shape = ir.Shape([graphs.BATCH, 1 if output.name == "mask" else 2, graphs.SEQUENCE, graphs.SEQUENCE])
    assert graphs.fires(PaddingMask, model) == 1


FILLED = """g (int64[B,S] attention_mask, float[B,2,S,S] scores) => (float[B,2,S,S] y)
    {{ ends = Equal(attention_mask, {value})  row = Unsqueeze(ends, axes)
       filled = Where(row, {fill}, scores)  y = Softmax(filled) }}"""


@pytest.mark.parametrize(
    ("value", "fill", "count"),
    [("zero", "lowest", 1), ("one", "lowest", 0), ("zero", "small", 0)],
    ids=["padding", "the other way round", "another fill"],
)
def test_scores_that_are_filled(value: str, fill: str, count: int) -> None:
    constants = {
        **graphs.integers({"axes": [1, 2]}),
        "zero": np.array(0, dtype=np.int64),
        "one": np.array(1, dtype=np.int64),
        "lowest": np.array(np.finfo(np.float32).min),
        "small": np.array(-10, dtype=np.float32),
    }
    model = graphs.parse(FILLED.format(value=value, fill=fill), constants)
    if count == 0:
        assert PaddingMask()(model).count == 0  # type: ignore[attr-defined]
        return
    assert graphs.fires(PaddingMask, model) == 1
    assert "Add" in graphs.operators(model)
