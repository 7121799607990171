"""The layout that a graph with axes [B, S] reads: texts padded on the right to the longest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.base import Float32, TokenBatch

Int64 = NDArray[np.int64]

_TOKENS = GRAPH_OUTPUTS["tokens"]


@dataclass(frozen=True)
class PaddedBatch:
    """A padded batch. Each array is int64 [B, S]; `token_type_ids` is None where the graph does not take it.

    `attention_mask` is 1 for a token and 0 for padding; 2, for graphs that know it, for a token that is read and not pooled.
    """

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64 | None

    @property
    def shape(self) -> tuple[int, int]:
        """B and S."""
        rows, width = self.input_ids.shape
        return rows, width


def padded(batch: TokenBatch, *, rows: int | None = None, width: int | None = None) -> PaddedBatch:
    """The texts of a batch as rows, padded on the right with the batch's `pad_id`, mask 0 and type 0.

    B is `rows`, which repeat the last text where there are more, or the number of texts; S is `width`, or the longest text's length.
    """
    width = max(batch.longest, 1) if width is None else width
    if batch.tokens == batch.texts * width and batch.unpooled is None and rows in (None, batch.texts):
        return _reshaped(batch, (batch.texts, width))
    mask = np.arange(width) < batch.lengths[:, None]  # [B, S]
    input_ids = _rows(batch.input_ids, mask, fill=batch.pad_id)
    attention_mask = mask.astype(np.int64)
    if batch.unpooled is not None:
        attention_mask[mask & (np.arange(width) < batch.unpooled[:, None])] = 2
    type_ids = None if batch.token_type_ids is None else _rows(batch.token_type_ids, mask, fill=0)
    if rows is None or rows == batch.texts:
        return PaddedBatch(input_ids, attention_mask, type_ids)
    more = np.minimum(np.arange(rows), batch.texts - 1)
    return PaddedBatch(input_ids[more], attention_mask[more], None if type_ids is None else type_ids[more])


def _reshaped(batch: TokenBatch, shape: tuple[int, int]) -> PaddedBatch:
    """Texts of one length, which need no padding."""
    type_ids = None if batch.token_type_ids is None else batch.token_type_ids.astype(np.int64).reshape(shape)
    return PaddedBatch(batch.input_ids.astype(np.int64).reshape(shape), np.ones(shape, dtype=np.int64), type_ids)


def of_texts(values: Sequence[Float32], outputs: Sequence[str], batch: TokenBatch, shape: tuple[int, int]) -> list[Float32]:
    """What a graph gave for `outputs` of a batch that was padded to `shape`, without the rows of padding and of repeated texts.

    What is of another shape, or no array at all, is left as it is: whoever asked for it knows what it must be, and refuses it.
    """
    kept = {_TOKENS: token_rows}
    return [
        kept.get(name, text_rows)(rows, batch, shape) if isinstance(rows, np.ndarray) else rows
        for name, rows in zip(outputs, values, strict=True)
    ]


def text_rows(rows: Float32, batch: TokenBatch, shape: tuple[int, int]) -> Float32:
    """The rows of a batch's texts, float32 [B, width], of those of `shape`'s first axis."""
    return rows[: batch.texts] if rows.shape[:1] == shape[:1] and batch.texts < shape[0] else rows


def token_rows(rows: Float32, batch: TokenBatch, shape: tuple[int, int]) -> Float32:
    """The rows of a batch's tokens, float32 [T, H], of `rows`, float32 [*shape, H]."""
    if rows.ndim != 3 or rows.shape[:2] != shape:
        return rows
    return rows[: batch.texts][np.arange(shape[1]) < batch.lengths[:, None]]


def padding_tokens(batch: TokenBatch) -> int:
    """How many tokens of padding the texts of a batch get in a layout that is as wide as the longest of them."""
    return batch.longest * batch.texts - batch.tokens


def _rows(values: NDArray[np.int32], mask: NDArray[np.bool_], *, fill: int) -> Int64:
    rows = np.full(mask.shape, fill, dtype=np.int64)
    rows[mask] = values
    return rows
