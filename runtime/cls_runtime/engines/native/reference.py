"""The native engine in NumPy: what holds an export where the library is not installed, and what the library is tested against.

With `exact=True` it gives the library's bits, slowly; without, as fast as NumPy multiplies, the same up to rounding. Then texts are
computed one by one, since BLAS adds up in another order for another number of rows: a text has the same vector in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.base import Batching, Float32, Int32, TokenBatch
from cls_runtime.engines.native.exact_arithmetic import ExactArithmetic, FastArithmetic
from cls_runtime.engines.native.reference_layers import Parts
from cls_runtime.engines.native.sizes import OUTPUTS
from cls_runtime.engines.native.weights import Embeddings, HeadStep, Layer, NativeModel
from cls_runtime.errors import ClosedError, EngineError

BATCHING = Batching(token_budget=4096, full_tokens=4096, pads=False)
_OUTPUT_OF_GRAPH = {GRAPH_OUTPUTS[name]: name for name in OUTPUTS}


class ReferenceEngine:
    """A native model in NumPy.

    Args:
        model: the model, whose sizes fit each other (`sizes.check_sizes`).
        exact: bit for bit what the library gives.
    """

    name = "native"
    providers: tuple[str, ...] = ("NumPy",)
    workers = 1
    batching = BATCHING

    def __init__(self, model: NativeModel, *, exact: bool = False) -> None:
        self._model: NativeModel | None = model
        self._exact = exact
        self._parts = Parts(ExactArithmetic() if exact else FastArithmetic())

    def padding_tokens(self, batch: TokenBatch) -> int:  # noqa: ARG002  there is none
        """How many tokens of padding a run of this batch computes beside its own."""
        return 0

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: the model has no such output, or takes no such tokens.
            ClosedError: `close` was called.
        """
        model = self._model
        if model is None:
            raise ClosedError("the engine is closed; load the bundle again")
        names = [_OUTPUT_OF_GRAPH.get(name, "") for name in outputs]
        for output, name in zip(outputs, names, strict=True):
            if name not in model.widths:
                held = ", ".join(GRAPH_OUTPUTS[item] for item in OUTPUTS if item in model.widths)
                raise EngineError(f"the model has no output {output!r}, expected one of {held}")
        check_batch(batch, model)
        parts = [batch] if self._exact else _texts_of(batch)
        # Numbers may be large or tiny as in the library, which says nothing either.
        with np.errstate(all="ignore"):
            made = [_Run(model, self._parts, part).outputs(names) for part in parts]
        return [np.concatenate(rows) for rows in zip(*made, strict=True)]

    def close(self) -> None:
        """Lets the model go. May be called more than once."""
        self._model = None


def _texts_of(batch: TokenBatch) -> list[TokenBatch]:
    """Each text as a batch of its own."""
    types, unpooled = batch.token_type_ids, batch.unpooled
    texts = []
    for index, (begin, end) in enumerate(pairwise(batch.offsets)):
        texts.append(
            TokenBatch(
                input_ids=batch.input_ids[begin:end],
                lengths=batch.lengths[index : index + 1],
                token_type_ids=None if types is None else types[begin:end],
                unpooled=None if unpooled is None else unpooled[index : index + 1],
            )
        )
    return texts


def check_batch(batch: TokenBatch, model: NativeModel) -> None:
    """Checks that a model takes these tokens.

    Raises:
        EngineError: a token, a type or a length is out of its range.
    """
    tables = model.embeddings
    lengths = batch.lengths
    fits = (
        batch.texts > 0
        and lengths.min() >= 1
        and lengths.max() <= model.max_length
        and lengths.sum() == batch.tokens
        and _within(batch.input_ids, len(tables.words))
    )
    if fits and batch.token_type_ids is not None and tables.token_types is not None:
        fits = len(batch.token_type_ids) == batch.tokens and _within(batch.token_type_ids, len(tables.token_types))
    if fits and batch.unpooled is not None:
        fits = len(batch.unpooled) == batch.texts and int(batch.unpooled.min()) >= 0
    if not fits:
        raise EngineError(
            f"the model does not take a batch of {batch.texts} texts and {batch.tokens} tokens: a token, a type or a length is out of its "
            "range; the tokenizer is another model's, or the bundle's native weights are, export it again"
        )


def _within(ids: Int32, rows: int) -> bool:
    return int(ids.min()) >= 0 and int(ids.max()) < rows


class _Run:
    """One batch on its way through the layers. x: [T, H]."""

    def __init__(self, model: NativeModel, parts: Parts, batch: TokenBatch) -> None:
        self._model, self._parts, self._batch = model, parts, batch
        offsets = batch.offsets
        self._texts = [slice(begin, end) for begin, end in pairwise(offsets)]
        self._unpooled = np.zeros(batch.texts, dtype=np.int32) if batch.unpooled is None else batch.unpooled

    def outputs(self, names: Sequence[str]) -> list[Float32]:
        """The outputs of these names."""
        x = self._embedded(self._model.embeddings)
        last = self._model.layers[-1]
        for layer in self._model.layers[:-1]:
            x = self._layer(x, layer)
        if last.one_row is None:
            x = self._parts.norm(self._layer(x, last), self._model.final_norm)
        by_rows: dict[bytes, Float32] = {}  # of a last layer that computes one row a text: its rows, by which they are
        made = []
        for name in names:
            width = self._model.widths[name]
            if name == "tokens":
                made.append(x[:, :width].copy())
                continue
            if name == "sentence" and self._model.mean_pooled:
                rows = self._means(x)
            else:
                places = self._rows_of(name)
                if last.one_row is None:
                    rows = x[self._batch.offsets[:-1] + places]
                elif (rows := by_rows.get(places.tobytes())) is None:  # type: ignore[assignment]
                    rows = by_rows[places.tobytes()] = self._last_rows(x, last, places)
            made.append(self._headed(rows, self._model.output_heads.get(name, ()))[:, :width].copy())  # type: ignore[call-overload]
        return made

    def _rows_of(self, name: str) -> Int32:
        """Which row of each text an output is made of."""
        if name != "sentence":
            return np.zeros_like(self._unpooled)
        return np.where(self._unpooled < self._batch.lengths, self._unpooled, 0).astype(np.int32)

    def _means(self, x: Float32) -> Float32:
        rows = [x[text][skipped:] for text, skipped in zip(self._texts, self._unpooled, strict=True)]
        return np.stack([self._parts.mean(part) for part in rows])

    def _headed(self, rows: Float32, steps: Sequence[HeadStep]) -> Float32:
        for step in steps:
            rows = self._parts.norm(self._parts.product(rows, step.product, step.activation), step.norm)
        return rows

    def _embedded(self, tables: Embeddings) -> Float32:
        """Rule 10, then the norm and the projection."""
        batch = self._batch
        x = tables.words[batch.input_ids].astype(np.float32)
        if tables.token_types is not None:
            types = np.zeros_like(batch.input_ids) if batch.token_type_ids is None else batch.token_type_ids
            x = x + tables.token_types[types]
        if tables.positions is not None:
            x = x + tables.positions[np.concatenate([self._positions(batch.input_ids[text], tables) for text in self._texts])]
        x = self._parts.norm(x, tables.norm)
        return x if tables.projection is None else self._parts.product(x, tables.projection)

    @staticmethod
    def _positions(ids: Int32, tables: Embeddings) -> NDArray[np.int64]:
        """The rows of a text's positions."""
        if tables.position_padding_id is None:
            return np.arange(len(ids)) + tables.position_offset
        counted = ids != tables.position_padding_id
        return np.where(counted, np.cumsum(counted), 0) + tables.position_padding_id

    def _layer(self, x: Float32, layer: Layer) -> Float32:
        model, parts = self._model, self._parts
        assert layer.query_key_value is not None
        three = parts.product(parts.norm(x, layer.attention_norm) if layer.pre_norm else x, layer.query_key_value)
        context = [parts.attended(three[text], layer, model.heads, model.head_stride, model.max_length) for text in self._texts]
        return self._behind_attention(np.concatenate(context), x, layer)

    def _last_rows(self, x: Float32, layer: Layer, places: Int32) -> Float32:
        """The last layer for one row a text, [B, H]."""
        model, parts = self._model, self._parts
        assert layer.one_row is not None
        rows = self._batch.offsets[:-1] + places
        hidden = parts.norm(x, layer.attention_norm) if layer.pre_norm else x
        queries = parts.product(hidden[rows], layer.one_row.query)
        context = [
            parts.attended_row(query, hidden[text], int(place), layer, layer.one_row, model.heads, model.head_stride, model.max_length)
            for query, text, place in zip(queries, self._texts, places, strict=True)
        ]
        return parts.norm(self._behind_attention(np.stack(context), x[rows], layer), model.final_norm)

    def _behind_attention(self, context: Float32, x: Float32, layer: Layer) -> Float32:
        parts = self._parts
        x = parts.product(context, layer.attention_output, residual=x)
        if layer.pre_norm:
            return parts.feed_forward(parts.norm(x, layer.feed_forward_norm), layer, x)
        x = parts.norm(x, layer.attention_norm)
        return parts.norm(parts.feed_forward(x, layer, x), layer.feed_forward_norm)
