"""Calibration: what texts make of the inputs of every product over all tokens, from which int8's scales come.

All of it is measured in float64, so that the same checkpoint and texts give the same scales on every CPU.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.graph.passes.output_layout import SENTENCE_EMBEDDING
from cls_exporter.graph.passes.rewriting import Builder, known_dims
from cls_exporter.graph.passes.smoothing import ChannelRange
from cls_exporter.graph.passes.static_quantization import InputScale
from cls_exporter.graph.passes.token_rows import token_products
from cls_exporter.variants.exact_run import reduce_exactly, run_exactly
from cls_runtime.engines.padding import PaddedBatch

Float64 = NDArray[np.float64]

WINDOW_TEXTS = 256  # how many texts are tokenized at once; what is in memory does not depend on how many there are
BATCH_TOKENS = 256  # every value of the graph is kept for a batch, in float64
_EXACT_ROWS = 256
QUIET_QUANTILE = 0.8  # measured with 0.5, 0.8 and 0.95 on all-MiniLM-L6-v2: docs/adr/0003-int8-recipe.md
# How much a token of the texts, and one of the random words, weighs in the moments.
TEXT_WEIGHT, WORD_WEIGHT = 3, 2
# Second moments [K, K] in memory at once; wide and deep models take several runs over the texts.
MOMENT_BYTES = 2 * 2**30


def token_batches(checkpoint: Checkpoint, texts: Iterator[str]) -> Iterator[PaddedBatch]:
    """The texts as batches without padding: the texts of a batch have the same number of tokens, and no pad token enters a range."""
    while window := list(islice(texts, WINDOW_TEXTS)):
        encoded = checkpoint.tokenizer(window, truncation=True, max_length=checkpoint.max_length)
        lengths = [len(ids) for ids in encoded["input_ids"]]
        for length in sorted(set(lengths)):
            places = [place for place, tokens in enumerate(lengths) if tokens == length]
            size = max(1, BATCH_TOKENS // length)
            for start in range(0, len(places), size):
                yield _batch(encoded, places[start : start + size])


def _batch(encoded: Mapping[str, Sequence[Sequence[int]]], places: list[int]) -> PaddedBatch:
    def rows(name: str) -> NDArray[np.int64]:
        return np.array([encoded[name][place] for place in places], dtype=np.int64)

    return PaddedBatch(rows("input_ids"), rows("attention_mask"), rows("token_type_ids") if "token_type_ids" in encoded else None)


def product_inputs(model: ir.Model) -> list[ir.Value]:
    """What the products over all tokens read, each once, in graph order. `model` is a graph after `TokenRows`."""
    return list(dict.fromkeys(node.inputs[0] for node in token_products(model) if node.inputs[0] is not None))


def activation_ranges(model: ir.Model, batches: Iterable[PaddedBatch]) -> dict[str, ChannelRange]:
    """The range of each input of a product over all tokens, by the input's name.

    The graph itself reduces every activation to two rows, so nothing is kept for a text.
    """
    measuring = model.clone()
    inputs = product_inputs(measuring)
    outputs = [_reduced(measuring, value, op_type) for value in inputs for op_type in ("ReduceMin", "ReduceMax")]
    ranges: dict[str, ChannelRange] = {}
    for rows in run_exactly(measuring, batches, outputs):
        batch = {str(value.name): ChannelRange(rows[2 * place], rows[2 * place + 1]) for place, value in enumerate(inputs)}
        ranges = merged(ranges, batch)
    return ranges


def merged(first: Mapping[str, ChannelRange], second: Mapping[str, ChannelRange]) -> dict[str, ChannelRange]:
    """The ranges over the texts of both; the two have the same names, or one is of no texts and empty."""
    if not first or not second:
        return dict(first or second)
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
    for value in product_inputs(model):
        producer = value.producer()
        if producer is not None and producer.op_type not in {"LayerNormalization", "Reshape"}:
            known = ranges[str(value.name)]
            low, high = np.quantile(known.low, 1 - QUIET_QUANTILE), np.quantile(known.high, QUIET_QUANTILE)
            raised[str(value.name)] = ChannelRange(np.minimum(known.low, low), np.maximum(known.high, high))
    return raised


@dataclass(frozen=True)
class InputMeans:
    """The means over the calibration texts of an input x [tokens, K] and of its steps, the integers uint8 - zero_point; [K] each."""

    values: Float64
    steps: Float64


@dataclass(frozen=True)
class InputMoments:
    """What the calibration texts make of an input.

    Attributes:
        means: first moments.
        weight: of all rows together, in `products`.
        products: the weighted sum of steps x steps, [K, K]; integers, and exact.
    """

    means: InputMeans
    weight: int
    products: Float64


def with_random_words(batches: Iterable[PaddedBatch], *, special: Collection[int], vocabulary: int) -> Iterator[PaddedBatch]:
    """Every other batch with each word exchanged for a random one of the vocabulary; special tokens stay, and so do all lengths.

    A few hundred texts do not use most words, nor the channels that answer to them.
    """
    words = np.setdiff1d(np.arange(vocabulary), np.array(sorted(special), dtype=np.int64))
    generator = np.random.default_rng(0)  # PCG64, the same on every machine
    for batch in islice(batches, 0, None, 2):
        ids = np.where(np.isin(batch.input_ids, words), generator.choice(words, batch.input_ids.shape), batch.input_ids)
        yield PaddedBatch(ids, batch.attention_mask, batch.token_type_ids)


def random_words(checkpoint: Checkpoint, batches: Iterable[PaddedBatch]) -> Iterator[PaddedBatch]:
    """`with_random_words` of the checkpoint's vocabulary."""
    vocabulary = min(len(checkpoint.tokenizer), int(checkpoint.config.vocab_size))
    return with_random_words(batches, special=checkpoint.tokenizer.all_special_ids, vocabulary=vocabulary)


def input_moments(
    model: ir.Model,
    scales: Mapping[str, InputScale],
    texts: Callable[[], Iterable[PaddedBatch]],
    words: Callable[[], Iterable[PaddedBatch]],
) -> Iterator[tuple[str, InputMoments]]:
    """The moments of each product's input with its scale, by the input's name; a group of them is in memory at a time.

    `texts` and `words` start over each time that they are called. Words count in `products` alone.
    """
    for group in _groups([(str(value.name), int(known_dims(value)[1])) for value in product_inputs(model)]):
        yield from _moments_of(model, {name: scales[name] for name in group}, texts(), words()).items()


def _groups(widths: Sequence[tuple[str, int]]) -> Iterator[list[str]]:
    """Names whose matrices [K, K] fit in `MOMENT_BYTES` together; one that does not fit is a group of its own."""
    group: list[str] = []
    size_bytes = 0
    for name, width in widths:
        own_bytes = 8 * width * width
        if group and size_bytes + own_bytes > MOMENT_BYTES:
            yield group
            group, size_bytes = [], 0
        group.append(name)
        size_bytes += own_bytes
    if group:
        yield group


def _moments_of(
    model: ir.Model, scales: Mapping[str, InputScale], texts: Iterable[PaddedBatch], words: Iterable[PaddedBatch]
) -> dict[str, InputMoments]:
    measuring = model.clone()
    values = [value for value in product_inputs(measuring) if value.name in scales]
    sums = [_Sums(zero_point=float(scales[str(value.name)].zero_point), width=int(known_dims(value)[1])) for value in values]
    outputs = [output for value in values for output in (_reduced(measuring, value, "ReduceSum"), _steps(measuring, value, scales))]

    def add_text(rows: list[Float64]) -> None:
        for place, item in enumerate(sums):
            item.add_text(rows[2 * place], rows[2 * place + 1])

    def add_words(rows: list[Float64]) -> None:
        for place, item in enumerate(sums):
            item.add_words(rows[2 * place + 1])

    deque(reduce_exactly(measuring, texts, outputs, add_text), maxlen=0)
    deque(reduce_exactly(measuring, words, outputs, add_words), maxlen=0)
    return {str(value.name): item.moments() for value, item in zip(values, sums, strict=True)}


class _Sums:
    """The sums of one input, batch by batch, from several threads."""

    def __init__(self, *, zero_point: float, width: int) -> None:
        self._zero_point = zero_point
        self._lock = threading.Lock()
        self._tokens = self._weight = 0
        self._sum, self._steps = np.zeros(width), np.zeros(width)
        self._products = torch.zeros((width, width), dtype=torch.float64)

    def add_text(self, total: Float64, quantized: Float64) -> None:
        """Adds a batch of texts: the sum of x [K], and x as uint8 [tokens, K]."""
        steps = self._add_products(quantized, TEXT_WEIGHT)
        with self._lock:
            self._tokens += len(steps)
            self._sum += total
            self._steps += steps.sum(0).numpy()

    def add_words(self, quantized: Float64) -> None:
        """Adds a batch of random words: x as uint8 [tokens, K]."""
        self._add_products(quantized, WORD_WEIGHT)

    def _add_products(self, quantized: Float64, weight: int) -> torch.Tensor:
        steps = torch.from_numpy(quantized).to(torch.float32) - self._zero_point
        # In float32, which is twice as fast and exact here: so few rows of sizes below 256 add up to less than 2^24.
        parts = [rows.T @ rows for rows in torch.split(steps, _EXACT_ROWS)]
        with self._lock:
            for part in parts:
                self._products.add_(part, alpha=weight)
            self._weight += weight * len(steps)
        return steps.to(torch.float64)

    def moments(self) -> InputMoments:
        """The moments of all batches."""
        means = InputMeans(self._sum / self._tokens, self._steps / self._tokens)
        return InputMoments(means, self._weight, self._products.numpy())


def _steps(model: ir.Model, value: ir.Value, scales: Mapping[str, InputScale]) -> str:
    """Adds `value` as uint8 to the graph's outputs, and gives the output's name."""
    scale = scales[str(value.name)]
    build = _before_readers(model, value)
    parameters = [
        build.initializer(np.array(scale.scale, dtype=np.float64), f"{value.name}.step"),
        build.initializer(np.array(scale.zero_point, dtype=np.uint8), f"{value.name}.zero"),
    ]
    quantized = build.node("QuantizeLinear", [value, *parameters], known_dims(value), dtype=ir.DataType.UINT8, name=f"{value.name}.steps")
    return _as_output(model, quantized)


def _reduced(model: ir.Model, value: ir.Value, op_type: str) -> str:
    """Adds `value` [B*S, K], reduced over the tokens to [K], to the graph's outputs, and gives the output's name."""
    name = f"{value.name}.{op_type}"
    build = _before_readers(model, value)
    inputs = [value, build.ints([0], f"{name}.axes")]
    return _as_output(model, build.node(op_type, inputs, known_dims(value)[1:], attributes={"keepdims": 0}, name=name))


def _before_readers(model: ir.Model, value: ir.Value) -> Builder:
    return Builder(next(node for node in model.graph if value in node.inputs))


def _as_output(model: ir.Model, value: ir.Value) -> str:
    model.graph.outputs.append(value)
    return str(value.name)


def sentence_embeddings(model: ir.Model, batches: Sequence[PaddedBatch]) -> NDArray[np.float32]:
    """The sentences' vectors of `batches`, in their order: float32 [n, width]."""
    return np.concatenate([rows[0] for rows in run_exactly(model, batches, [SENTENCE_EMBEDDING])]).astype(np.float32)
