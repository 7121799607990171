"""Small packed graphs that any provider runs, and what they give, in numpy: a text's vector has all its rows and no others.

All numbers are small whole ones, so that sums are exact in any order and vectors are the same whatever ran beside them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from cls_runtime.engines.base import TokenBatch

HIDDEN, VOCABULARY, POSITIONS = 8, 128, 512
WIDTHS = {"sentence_embedding": HIDDEN, "last_hidden_state": HIDDEN}
_random = np.random.default_rng(3)
WORDS = _random.integers(-9, 10, (VOCABULARY, HIDDEN)).astype(np.float32)
PLACES = _random.integers(-9, 10, (POSITIONS, HIDDEN)).astype(np.float32)


def packed_model(*, mean: bool = False, tokens: bool = False) -> onnx.ModelProto:
    """rows = WORDS[ids] + PLACES[positions], [T, H]; a text's vector is its first row and the sum of all, or their mean.

    The sum is read by `cu_seqlens` and `cls_rows`, the mean by `token_offset` and `attention_mask`: rows behind the last text would be put
    into padding, as RestorePadding does.
    """
    node = helper.make_node
    nodes = [
        node("Gather", ["WORDS", "input_ids"], ["words"]),
        node("Gather", ["PLACES", "position_ids"], ["places"]),
        node("Add", ["words", "places"], ["last_hidden_state"]),
    ]
    if mean:
        inputs = {"token_offset": ["B", "S"], "attention_mask": ["B", "S"]}
        nodes += [
            node("Shape", ["last_hidden_state"], ["rows_shape"]),
            node("Slice", ["rows_shape", "zero", "one"], ["T"]),
            node("Reshape", ["token_offset", "minus_one"], ["all_places"]),
            node("Slice", ["all_places", "zero", "T"], ["token_places"]),
            node("Cast", ["token_places"], ["token_places64"], to=TensorProto.INT64),
            node("Unsqueeze", ["token_places64", "one"], ["indices"]),
            node("Shape", ["token_offset"], ["BS"]),
            node("Concat", ["BS", "hidden"], ["BSH"], axis=0),
            node("ReduceProd", ["BS"], ["count"], keepdims=1),
            node("Concat", ["count", "hidden"], ["flat"], axis=0),
            node("ConstantOfShape", ["flat"], ["nothing"]),
            node("ScatterND", ["nothing", "indices", "last_hidden_state"], ["scattered"]),
            node("Reshape", ["scattered", "BSH"], ["restored"]),
            node("Cast", ["one"], ["one32"], to=TensorProto.INT32),
            node("Equal", ["attention_mask", "one32"], ["pooled"]),
            node("Cast", ["pooled"], ["weights"], to=TensorProto.FLOAT),
            node("Unsqueeze", ["weights", "two"], ["weights3"]),
            node("Mul", ["restored", "weights3"], ["parts"]),
            node("ReduceSum", ["parts", "one"], ["total"], keepdims=0),
            node("ReduceSum", ["weights", "one"], ["number"], keepdims=1),
            node("Div", ["total", "number"], ["sentence_embedding"]),
        ]
    else:
        inputs = {"cu_seqlens": ["B1"], "cls_rows": ["B"]}
        nodes += [
            node("CumSum", ["last_hidden_state", "axis0"], ["summed"]),
            node("Concat", ["empty_row", "summed"], ["before"], axis=0),
            node("Gather", ["before", "cu_seqlens"], ["bounds"]),
            node("Slice", ["bounds", "zero", "minus_one"], ["begins"]),
            node("Slice", ["bounds", "one", "far"], ["ends"]),
            node("Sub", ["ends", "begins"], ["sums"]),
            node("Gather", ["last_hidden_state", "cls_rows"], ["first"]),
            node("Add", ["first", "sums"], ["sentence_embedding"]),
        ]
    constants = {
        "zero": np.array([0]),
        "one": np.array([1]),
        "two": np.array([2]),
        "minus_one": np.array([-1]),
        "far": np.array([2**31]),
        "axis0": np.array(0),
        "hidden": np.array([HIDDEN]),
        "empty_row": np.zeros((1, HIDDEN), dtype=np.float32),
        "WORDS": WORDS,
        "PLACES": PLACES,
    }
    used = {name for item in nodes for name in item.input}
    axes = {"input_ids": ["T"], "position_ids": ["T"], "cu_seqlens": ["B1"], **inputs}
    if mean:  # the packed operators read it: it is what a packed graph is known by
        nodes.append(node("Shape", ["cu_seqlens"], ["unused"]))
    outputs = {"sentence_embedding": ["B", HIDDEN], **({"last_hidden_state": ["T", HIDDEN]} if tokens else {})}
    graph = helper.make_graph(
        nodes,
        "packed",
        [helper.make_tensor_value_info(name, TensorProto.INT32, shape) for name, shape in axes.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if name in used],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def save(folder: Path, model: onnx.ModelProto) -> Path:
    path = folder / "model_fp16_packed.onnx"
    onnx.save(model, str(path))
    return path


def batch_of(*lengths: int, seed: int = 0, unpooled: tuple[int, ...] | None = None) -> TokenBatch:
    random = np.random.default_rng([seed, *lengths])
    return TokenBatch(
        input_ids=random.integers(1, VOCABULARY, sum(lengths)).astype(np.int32),
        lengths=np.array(lengths, dtype=np.int32),
        unpooled=None if unpooled is None else np.array(unpooled, dtype=np.int32),
    )


def expected(batch: TokenBatch, *, mean: bool = False) -> list[np.ndarray]:
    """The sentence vectors [B, H] and the tokens' rows [T, H], text by text."""
    vectors, states = [], []
    for place, ids in enumerate(np.split(batch.input_ids, batch.offsets[1:-1])):
        rows = WORDS[ids] + PLACES[: len(ids)]
        skipped = 0 if batch.unpooled is None else int(batch.unpooled[place])
        vectors.append(rows[skipped:].sum(0) / np.float32(len(ids) - skipped) if mean else rows[0] + rows.sum(0))
        states.append(rows)
    return [np.array(vectors), np.concatenate(states)]
