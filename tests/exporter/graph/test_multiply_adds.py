from __future__ import annotations

import graphs
import numpy as np
import pytest

from cls_exporter.errors import GraphError
from cls_exporter.graph.multiply_adds import multiply_add_formulas, multiply_adds
from cls_runtime.bundle.manifest import MultiplyAdds

WEIGHTS = graphs.random_weights(w=(8, 4), v=(4, 4))


@pytest.mark.parametrize(
    ("body", "inputs", "result", "expected"),
    [
        ("y = MatMul(x, w)", "float[B,S,8] x", "[B,S,4]", 3 * 5 * 8 * 4),
        ("y = MatMul(x, z)", "float[B,2,S,8] x, float[B,2,8,S] z", "[B,2,S,S]", 3 * 2 * 5 * 8 * 5),
        ("y = Gemm(x, w)", "float[B,8] x", "[B,4]", 3 * 8 * 4),
        ("y = Gemm <transA = 1> (x, w)", "float[8,B] x", "[B,4]", 3 * 8 * 4),
        ("h = MatMul(x, w)  y = MatMul(h, v)", "float[B,S,8] x", "[B,S,4]", 3 * 5 * (8 * 4 + 4 * 4)),
        ("y = Add(x, x)", "float[B,S,8] x", "[B,S,8]", 0),
    ],
)
def test_products_are_counted_and_nothing_else(body: str, inputs: str, result: str, expected: int) -> None:
    model = graphs.parse(f"g ({inputs}) => (float{result} y) {{ {body} }}", WEIGHTS)
    assert multiply_adds(model, batch_size=3, sequence_length=5) == expected


def test_a_dimension_may_be_a_formula() -> None:
    model = graphs.parse("g (float[B,S,8] x) => (float[B,S,4] y) { y = MatMul(x, w) }", WEIGHTS)
    (output,) = model.graph.outputs
    output.shape = type(output.shape)(["batch_size", "Min(2*sequence_length, 7)", 4])
    assert multiply_adds(model, batch_size=3, sequence_length=5) == 3 * 7 * 8 * 4


def test_an_unknown_dimension_is_an_error() -> None:
    model = graphs.parse("g (float[B,n,8] x) => (float[B,n,4] y) { y = MatMul(x, w) }", WEIGHTS)
    with pytest.raises(GraphError, match="the dimension 'n' is not a formula of batch_size and sequence_length"):
        multiply_adds(model, batch_size=3, sequence_length=5)


@pytest.mark.parametrize(
    ("body", "result", "expected"),
    [
        ("y = MatMul(x, w)", "[B,S,4]", MultiplyAdds(per_run=0, per_text=0, per_token=32, per_token_pair=0)),
        ("r = Gather(x, zero)  y = Gemm(r, w)", "[B,4]", MultiplyAdds(per_run=0, per_text=32, per_token=0, per_token_pair=0)),
        ("y = MatMul(w, v)", "[8,4]", MultiplyAdds(per_run=128, per_text=0, per_token=0, per_token_pair=0)),
    ],
)
def test_the_work_is_a_formula_of_texts_and_tokens(body: str, result: str, expected: MultiplyAdds) -> None:
    model = graphs.parse(f"g (float[B,S,8] x) => (float{result} y) {{ {body} }}", {**WEIGHTS, "zero": np.array(0)})
    assert multiply_add_formulas(model) == {"fp32": expected}
    assert multiply_adds(model, batch_size=6, sequence_length=11) == expected.count(6, 11)


def test_attention_grows_with_the_square_of_the_length() -> None:
    model = graphs.parse("g (float[B,2,S,8] x, float[B,2,8,S] z) => (float[B,2,S,S] y) { y = MatMul(x, z) }", WEIGHTS)
    assert multiply_add_formulas(model) == {"fp32": MultiplyAdds(per_run=0, per_text=0, per_token=0, per_token_pair=16)}


def test_a_product_of_int8_values_is_counted_apart() -> None:
    body = "q = QuantizeLinear(x, s)  a = DequantizeLinear(q, s)  b = DequantizeLinear(c, s)  h = MatMul(a, b)  y = MatMul(h, v)"
    weights = {**WEIGHTS, "s": np.array(0.5, np.float32), "c": np.ones((8, 4), np.int8)}
    model = graphs.parse(f"g (float[B,S,8] x) => (float[B,S,4] y) {{ {body} }}", weights)
    assert multiply_add_formulas(model) == {
        "fp32": MultiplyAdds(per_run=0, per_text=0, per_token=16, per_token_pair=0),
        "int8": MultiplyAdds(per_run=0, per_text=0, per_token=32, per_token_pair=0),
    }


def test_work_that_follows_no_such_formula_has_none() -> None:
    model = graphs.parse("g (float[B,S,8] x) => (float[B,S,4] y) { y = MatMul(x, w) }", WEIGHTS)
    (output,) = model.graph.outputs
    output.shape = type(output.shape)(["batch_size", "Min(sequence_length, 128)", 4])
    assert multiply_add_formulas(model) == {}
