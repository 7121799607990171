"""A graph in float64, held to PyTorch's model in float64, to ONNX Runtime and to integers."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import checkpoints
import graphs
import numpy as np
import onnx_ir as ir
import pytest
import torch
from onnx_ir.passes import common
from transformers import AutoModel

from cls_exporter.graph.passes.static_quantization import InputScale, QuantizedWeight, StaticQuantization
from cls_exporter.graph.passes.token_rows import TokenRows
from cls_exporter.variants import exact_run
from cls_exporter.variants.exact_run import in_parallel, reduce_exactly, run_exactly
from cls_runtime.engines.padding import PaddedBatch

IDS = np.array([[2, 5, 6, 7, 3], [2, 9, 3, 0, 0]], dtype=np.int64)
MASK = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]], dtype=np.int64)
BATCH = PaddedBatch(IDS, MASK, np.zeros_like(IDS))
WEIGHTS = graphs.random_weights(E=(2, 8), W=(8, 6), b=(6,), V=(6, 8), g=(8,), n=(8,))


def test_it_is_the_model_in_float64(exported_family):
    """To 2e-10, since the graph holds 1 / sqrt(D) in float32; had any value been float32, it would be 1e-7."""
    exported = exported_family("bert", "encoder")
    (rows,) = next(run_exactly(exported.graph(), [BATCH], ["sentence_embedding"]))
    model = AutoModel.from_pretrained(exported.checkpoint).eval().double()
    with torch.no_grad():
        hidden = model(torch.from_numpy(IDS), torch.from_numpy(MASK)).last_hidden_state[:, 0]
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, hidden.numpy(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("family", checkpoints.families(always=("bert",)))
def test_every_familys_graph_runs_and_is_what_the_engine_computes(family, exported_family):
    exported = exported_family(family, "encoder")
    session = exported.session()
    feed = {item.name: getattr(BATCH, item.name) for item in session.get_inputs()}
    outputs = [item.name for item in session.get_outputs()]
    exact = next(run_exactly(exported.graph(), [BATCH], outputs))
    for name, rows, expected in zip(outputs, exact, session.run(outputs, feed), strict=True):
        np.testing.assert_allclose(rows, expected, rtol=0, atol=2e-5, err_msg=f"{family} {name}")


def quantized(integers: np.ndarray) -> ir.Model:
    """x [2, 8] by an int8 weight, on graphs' small vocabulary of two tokens."""
    text = "g (int64[B,S] input_ids) => (float[B,S,6] y) { x = Gather<axis = 0>(E, input_ids)  y = MatMul(x, W) }"
    model = graphs.parse(text, WEIGHTS)
    TokenRows()(model)
    common.RemoveUnusedNodesPass()(model)
    (name,) = {str(node.inputs[0].name) for node in model.graph if node.op_type == "Gemm"}
    scale = InputScale(np.float32(0.03125), np.uint8(127))
    StaticQuantization({name: scale}, {"W": QuantizedWeight(integers, np.full(6, 0.5, dtype=np.float32))})(model)
    return model


def test_a_quantized_product_is_that_of_the_integers():
    integers = np.random.default_rng(0).integers(-127, 128, (8, 6)).astype(np.int8)
    batch = PaddedBatch(np.array([[0, 1]]), np.ones((1, 2), dtype=np.int64), None)
    (rows,) = next(run_exactly(quantized(integers), [batch], ["y"]))
    steps = np.clip(np.rint(WEIGHTS["E"].astype(np.float64) / 0.03125) + 127, 0, 255).astype(np.int64) - 127
    assert np.array_equal(rows[0], steps @ integers.astype(np.int64) * (0.03125 * 0.5))


@pytest.mark.parametrize(
    "body",
    [
        "p = MatMul(x, W)  a = Add(p, b)  h = Gelu(a)  y = MatMul(h, V)",
        'p = MatMul(x, W)  a = Add(p, b)  h = Gelu<approximate = "tanh">(a)  y = MatMul(h, V)',
        "y = LayerNormalization<axis = -1, epsilon = 0.001>(x, g, n)",
        "y = LayerNormalization<axis = -1>(x, g)",
        "t = Transpose<perm = [0, 2, 1]>(x)  s = MatMul(x, t)  p = Softmax<axis = -1>(s)  y = MatMul(p, x)",
        "e = Erf(x)  y = Mul(e, x)",
    ],
)
def test_an_operator_is_the_engines(body):
    model = graphs.parse(f"g (int64[B,S] input_ids) => (float[B,S,8] y) {{ x = Gather<axis = 0>(E, input_ids)  {body} }}", WEIGHTS)
    feed = graphs.feed_for(model, batch=2, length=5)
    batch = PaddedBatch(feed["input_ids"], np.ones((2, 5), dtype=np.int64), None)
    (rows,) = next(run_exactly(model, [batch], ["y"]))
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows, graphs.run(model, feed)["y"], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "left", "right"),
    [("transB = 1", (3, 4), (5, 4)), ("transA = 1", (4, 3), (4, 5)), ("alpha = 0.5, beta = 2.0", (3, 4), (4, 5))],
)
def test_gemm_follows_its_attributes(attributes, left, right):
    arrays = graphs.random_weights(a=left, b=right, c=(5,))
    shapes = ", ".join(f"float[{','.join(map(str, array.shape))}] {name}" for name, array in arrays.items())
    model = graphs.parse(f"g ({shapes}) => (float[3,5] y) {{ y = Gemm<{attributes}>(a, b, c) }}")
    evaluator = exact_run.ReferenceEvaluator(ir.to_proto(model), new_ops=exact_run.OPERATORS)
    np.testing.assert_allclose(evaluator.run(["y"], arrays)[0], graphs.run(model, arrays)["y"], atol=1e-5)


def test_a_model_is_left_as_it_was(exported_family):
    model = exported_family("bert", "encoder").graph()
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    next(run_exactly(model, [BATCH], ["sentence_embedding"]))
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before


def test_results_come_in_order_however_long_each_takes():
    turns = [threading.Event() for _ in range(2)]

    def run(number: int) -> int:
        if number == 0:
            turns[1].wait(10)  # the second is done before the first
        else:
            turns[1].set()
        return number

    assert list(in_parallel(run, range(20))) == list(range(20))


def test_few_are_under_way_so_that_memory_does_not_grow_with_the_texts(monkeypatch):
    monkeypatch.setattr(exact_run, "available_cpus", lambda: 2)
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield number

    results = in_parallel(lambda number: number, items())
    assert next(results) == 0
    assert taken <= 5
    results.close()  # type: ignore[attr-defined]


def test_threads_that_start_later_compute_as_before():
    """PyTorch's number of threads is set for those that compute, and would hold for all that start after them."""
    torch.set_num_threads(2)
    list(in_parallel(lambda number: number, range(4)))
    seen: list[int] = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    torch.set_num_threads(1)  # as all tests of the exporter
    assert seen == [2]


def test_an_error_ends_the_run():
    def fail(number: int) -> int:
        if number == 3:
            raise ZeroDivisionError("the third")
        return number

    with pytest.raises(ZeroDivisionError, match="the third"):
        list(in_parallel(fail, range(10)))


def test_what_is_reduced_is_not_kept(exported_family):
    sums = list(
        reduce_exactly(exported_family("bert", "encoder").graph(), [BATCH, BATCH], ["sentence_embedding"], lambda rows: rows[0].sum())
    )
    assert len(sums) == 2
    assert sums[0] == sums[1]
