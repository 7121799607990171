"""Which masks `MultiHeadAttention` gets right on a CPU: why the padded fp16 graph hands over the mask itself (docs/adr/0012-gpu.md).

A mask that is accepted and wrong shows here. On CUDA some of them would let a faster kernel run.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

B, S, A, D = 4, 8, 2, 8
RIGHT, LEFT, HOLES, NOTHING = range(B)
MASK = np.ones((B, S), dtype=np.int32)
MASK[RIGHT, 5:] = MASK[LEFT, :3] = MASK[HOLES, [2, 4, 5]] = MASK[NOTHING] = 0
LOWEST = float(np.finfo(np.float32).min)
HALF_LOWEST = -65504.0

Array = NDArray[Any]


def attention(queries: Array, keys: Array, values: Array, bias: Array) -> Array:
    """`softmax(q k^T + bias) v` in float64, q, k and v [B, S, A*D]."""

    def heads(rows: Array) -> Array:
        return rows.astype(np.float64).reshape(B, S, A, D).transpose(0, 2, 1, 3)

    scores = heads(queries) @ heads(keys).transpose(0, 1, 3, 2) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    context = weights / weights.sum(-1, keepdims=True) @ heads(values)
    return context.transpose(0, 2, 1, 3).reshape(B, S, A * D)


def computed(queries: Array, keys: Array, values: Array, *, mask: Array | None = None, bias: Array | None = None) -> Array:
    """The operator's output on ONNX Runtime's CPU provider."""
    dtype = helper.np_dtype_to_tensor_dtype(queries.dtype)
    feeds = {"q": queries, "k": keys, "v": values}
    feeds |= {} if mask is None else {"mask": mask}
    feeds |= {} if bias is None else {"bias": bias}
    names = ["q", "k", "v", "", "mask" if mask is not None else "", "bias" if bias is not None else ""]
    node = helper.make_node(
        "MultiHeadAttention", names, ["out"], domain="com.microsoft", num_heads=A, scale=1.0, mask_filter_value=float(np.float32(LOWEST))
    )
    types = {name: TensorProto.INT32 if name == "mask" else dtype for name in feeds}
    inputs = [helper.make_tensor_value_info(name, types[name], array.shape) for name, array in feeds.items()]
    graph = helper.make_graph([node], "attention", inputs, [helper.make_tensor_value_info("out", dtype, [B, S, A * D])])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["out"], feeds)[0], dtype=np.float64)


@pytest.fixture(params=[np.float32, np.float16], ids=["float32", "float16"])
def rows(request: pytest.FixtureRequest) -> tuple[Array, Array, Array]:
    """Queries, keys and values [B, S, A*D]."""
    generator = np.random.default_rng(0)
    queries, keys, values = generator.standard_normal((3, B, S, A * D)).astype(request.param)
    return queries, keys, values


def wrong(found: Array, rows: tuple[Array, Array, Array]) -> set[int]:
    """The texts whose rows are not PyTorch's: masked by float32's lowest number, and uniform where nothing is left."""
    expected = attention(*rows, np.where(MASK[:, None, None, :] > 0, 0.0, LOWEST))
    tolerance = 1e-5 if rows[0].dtype == np.float32 else 5e-3
    return {text for text in range(B) if np.abs(found[text] - expected[text]).max() > tolerance}


def test_the_mask_itself_is_right_for_every_text(rows: tuple[Array, Array, Array]) -> None:
    assert wrong(computed(*rows, mask=MASK), rows) == set()


def test_lengths_are_taken_and_wrong_but_for_padding_on_the_right(rows: tuple[Array, Array, Array]) -> None:
    lengths = MASK.sum(axis=1).astype(np.int32)
    assert wrong(computed(*rows, mask=lengths), rows) == {LEFT, HOLES}
    starts = np.arange(B + 1, dtype=np.int32) * S
    key_starts = starts + np.array([0, 3, 0, 0, 0], dtype=np.int32)
    with_starts = np.concatenate([lengths, starts, key_starts])
    assert wrong(computed(*rows, mask=with_starts), rows) == {LEFT, HOLES}, "the starts are not read"


def test_a_bias_that_float16_holds_is_right_for_every_text_with_a_token(rows: tuple[Array, Array, Array]) -> None:
    masked = np.where(MASK[:, None, None, :] > 0, 0.0, HALF_LOWEST).astype(rows[0].dtype)
    assert wrong(computed(*rows, bias=np.repeat(masked, S, axis=2)), rows) == {NOTHING}


def test_and_for_one_without_a_token_where_its_query_is_0(rows: tuple[Array, Array, Array]) -> None:
    queries, keys, values = rows
    empty = MASK.sum(axis=1) == 0
    kept = (MASK > 0) | empty[:, None]
    masked = np.where(kept[:, None, None, :], 0.0, HALF_LOWEST).astype(queries.dtype)
    queried = (queries * ~empty[:, None, None]).astype(queries.dtype)
    assert wrong(computed(queried, keys, values, bias=np.repeat(masked, S, axis=2)), rows) == set()
