"""The layout that a graph with axes [B, S] reads: texts padded on the right to the longest of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Float32, TokenBatch

Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class PaddedBatch:
    """A padded batch. Each array is int64 [B, S]; `token_type_ids` is None where the graph does not take it.

    `attention_mask` is 1 for a token and 0 for padding; 2, for graphs that know it, for a token that is read and not pooled.
    """

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64 | None


def padded(batch: TokenBatch, *, rows: int | None = None, width: int | None = None) -> PaddedBatch:
    """The texts of a batch as rows, padded on the right with the batch's `pad_id`, mask 0 and type 0.

    B is `rows`, which repeat the last text where there are more, or the number of texts; S is `width`, or the longest text's length.
    """
    width = batch.longest if width is None else width
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


def token_rows(rows: Float32, batch: TokenBatch) -> Float32:
    """The rows of a batch's tokens, float32 [T, H], of `rows` [B, S, H] or, with repeated texts behind them, of more."""
    return rows[: batch.texts][np.arange(rows.shape[1]) < batch.lengths[:, None]]


def padding_tokens(lengths: NDArray[np.intp]) -> int:
    """How many tokens of padding texts of these lengths get when they run together."""
    return int(lengths.max() * len(lengths) - lengths.sum())


def _rows(values: NDArray[np.int32], mask: NDArray[np.bool_], *, fill: int) -> Int64:
    rows = np.full(mask.shape, fill, dtype=np.int64)
    rows[mask] = values
    return rows
