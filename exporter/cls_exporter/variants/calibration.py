"""Calibration: the texts that int8's scales come from, and the range of every activation over them."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.graph.passes.output_layout import SENTENCE_EMBEDDING
from cls_exporter.graph.passes.smoothing import ChannelRange
from cls_exporter.graph.passes.token_rows import token_products
from cls_runtime.engines import graph_runner
from cls_runtime.engines.base import TokenBatch
from cls_runtime.errors import UsageError
from cls_runtime.reading.text_files import read_texts

Float32 = NDArray[np.float32]

WINDOW_TEXTS = 256  # how many texts are tokenized at once; what is in memory does not depend on how many there are
BATCH_TOKENS = 1024
QUIET_QUANTILE = 0.8  # measured with 0.5, 0.8 and 0.95 on all-MiniLM-L6-v2: docs/adr/0003-int8-recipe.md


@dataclass(frozen=True)
class CalibrationTexts:
    """Where the texts come from: `open` starts over, `count` and `sha256` name them in the manifest. Made by `of` and `of_file`."""

    open: Callable[[], Iterator[str]]
    count: int
    sha256: str

    @classmethod
    def of(cls, texts: Sequence[str]) -> CalibrationTexts:
        """Texts that are in memory."""
        return _counted(lambda: iter(texts))

    @classmethod
    def of_file(cls, file: Path) -> CalibrationTexts:
        """The texts of a file, one a line; it is read anew each time, so that memory does not grow with it.

        Raises:
            UsageError: the file cannot be read or holds no text.
        """
        texts = _counted(lambda: (text for text in read_texts([file]) if text.strip()))
        if not texts.count:
            raise UsageError(f"calibration file {file} holds no text; expected one text a line, some hundred of them")
        return texts


def _counted(open_texts: Callable[[], Iterator[str]]) -> CalibrationTexts:
    digest = hashlib.sha256()
    count = 0
    for text in open_texts():
        digest.update(text.encode("utf-8", "surrogatepass") + b"\n")
        count += 1
    return CalibrationTexts(open_texts, count, digest.hexdigest())


def token_batches(checkpoint: Checkpoint, texts: Iterator[str]) -> Iterator[TokenBatch]:
    """The texts as batches without padding: the texts of a batch have the same number of tokens, and no pad token enters a range."""
    while window := list(islice(texts, WINDOW_TEXTS)):
        encoded = checkpoint.tokenizer(window, truncation=True, max_length=checkpoint.max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        for length in sorted(set(lengths)):
            places = [place for place, found in enumerate(lengths) if found == length]
            size = max(1, BATCH_TOKENS // length)
            for start in range(0, len(places), size):
                yield _batch(encoded, places[start : start + size])


def _batch(encoded: Mapping[str, Sequence[Sequence[int]]], places: list[int]) -> TokenBatch:
    def rows(name: str) -> NDArray[np.int64]:
        return np.array([encoded[name][place] for place in places], dtype=np.int64)

    return TokenBatch(rows("input_ids"), rows("attention_mask"), rows("token_type_ids") if "token_type_ids" in encoded else None)


def activation_ranges(model: ir.Model, batches: Iterable[TokenBatch]) -> dict[str, ChannelRange]:
    """The range of each input of a product over all tokens, by the input's name. `model` is a graph after `TokenRows`.

    The graph itself reduces every activation to two rows, so nothing is kept for a text.
    """
    measuring = model.clone()
    names = list(dict.fromkeys(str(node.inputs[0].name) for node in token_products(measuring) if node.inputs[0] is not None))
    inputs = {node.inputs[0].name: node.inputs[0] for node in token_products(measuring) if node.inputs[0] is not None}
    outputs = [reduced_output(measuring, inputs[name], op_type) for name in names for op_type in ("ReduceMin", "ReduceMax")]
    ranges: dict[str, ChannelRange] = {}
    for found in run_graph(measuring, batches, outputs):
        batch = {name: ChannelRange(found[2 * index], found[2 * index + 1]) for index, name in enumerate(names)}
        ranges = merged(ranges, batch) if ranges else batch
    return ranges


def merged(first: Mapping[str, ChannelRange], second: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """The ranges over the texts of both; the two have the same names."""
    return {
        name: ChannelRange(np.minimum(known.low, second[name].low), np.maximum(known.high, second[name].high))
        for name, known in first.items()
    }


def with_quiet_channels_raised(model: ir.Model, ranges: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """The ranges, with room for channels of a feed-forward's hidden layer that the calibration texts hardly used.

    Such a channel answers to few words. Smoothed by what other words made of it, it is clipped when its own word comes: its range is
    raised to what four channels of five stay below.
    """
    raised = dict(ranges)
    for node in token_products(model):
        value = node.inputs[0]
        producer = None if value is None else value.producer()
        if value is not None and producer is not None and producer.op_type not in {"LayerNormalization", "Reshape"}:
            found = ranges[str(value.name)]
            low, high = np.quantile(found.low, 1 - QUIET_QUANTILE), np.quantile(found.high, QUIET_QUANTILE)
            raised[str(value.name)] = ChannelRange(
                np.minimum(found.low, low).astype(np.float32), np.maximum(found.high, high).astype(np.float32)
            )
    return raised


def reduced_output(model: ir.Model, value: ir.Value, op_type: str) -> str:
    """Adds `value` [B*S, K], reduced over the tokens to [K], to the graph's outputs, and gives the output's name."""
    name = f"{value.name}.{op_type}"
    axes = ir.Value(name=f"{name}.axes", const_value=ir.tensor(np.array([0], dtype=np.int64), name=f"{name}.axes"))
    model.graph.register_initializer(axes)
    width = value.shape[1] if value.shape is not None else None
    output = ir.Value(name=name, shape=ir.Shape([width]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.append(ir.node(op_type, [value, axes], attributes={"keepdims": 0}, outputs=[output]))
    model.graph.outputs.append(output)
    return name


def sentence_embeddings(model: ir.Model, batches: Sequence[TokenBatch]) -> Float32:
    """The CLS rows of `batches`, in their order: float32 [n, H]."""
    return np.concatenate([found[0] for found in run_graph(model, batches, [SENTENCE_EMBEDDING])])


def run_graph(model: ir.Model, batches: Iterable[TokenBatch], outputs: Sequence[str]) -> Iterator[list[Float32]]:
    """The `outputs` of a graph in memory for each batch."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="weights")  # ten times as fast as inside the protocol buffer, which is for files that are kept
        yield from graph_runner.run_graph(path, batches, outputs)
