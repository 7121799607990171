"""The layout that a packed graph reads: the tokens of all texts one after another, and where each text is.

Inputs, all int32: `input_ids`, `token_type_ids` and `position_ids` (the token's place in its text, from 0 on) [T]; `cu_seqlens` [B + 1],
where each text begins; `cls_rows` [B], the row of each text's first token; `token_offset` [B, S], for ONNX Runtime's packed operators: the
places b * S + s of all tokens, then those of the padding between them; `attention_mask` [B, S], as in the padded layout, for graphs that
pool. A graph has those of them that it reads. Its outputs are those of the padded graph; `last_hidden_state` is [T, H].
"""

from __future__ import annotations

from collections.abc import Callable, Collection

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Int32, TokenBatch

INPUTS = ("input_ids", "token_type_ids", "position_ids", "cu_seqlens", "cls_rows", "token_offset", "attention_mask")


def packed(batch: TokenBatch, names: Collection[str], *, width: int | None = None) -> dict[str, Int32]:
    """The inputs `names` of a packed graph, as the module says. S is `width`, or the longest text's length."""
    width = batch.longest if width is None else width
    offsets = batch.offsets
    made: dict[str, Callable[[], Int32]] = {
        "input_ids": lambda: batch.input_ids,
        "token_type_ids": lambda: np.zeros_like(batch.input_ids) if batch.token_type_ids is None else batch.token_type_ids,
        "position_ids": lambda: positions(batch.lengths, offsets),
        "cu_seqlens": lambda: offsets,
        "cls_rows": lambda: offsets[:-1],
        "token_offset": lambda: token_offset(batch.lengths, width),
        "attention_mask": lambda: _mask(batch, width),
    }
    return {name: made[name]() for name in names}


def positions(lengths: Int32, offsets: Int32) -> Int32:
    """The place of each token in its text, int32 [T]."""
    return np.arange(offsets[-1], dtype=np.int32) - np.repeat(offsets[:-1], lengths)


def token_offset(lengths: Int32, width: int | None = None) -> Int32:
    """int32 [B, S]: row by row the places of all tokens in [B, S], then those of all padding. S is `width`, or the longest text's length.

    >>> token_offset(np.array([1, 2], dtype=np.int32)).tolist()
    [[0, 2], [3, 1]]
    """
    mask = _is_token(lengths, int(lengths.max()) if width is None else width)
    return np.concatenate([np.flatnonzero(mask), np.flatnonzero(~mask)]).astype(np.int32).reshape(mask.shape)


def _mask(batch: TokenBatch, width: int) -> Int32:
    mask = _is_token(batch.lengths, width)
    if batch.unpooled is None:
        return mask.astype(np.int32)
    return np.where(mask, np.where(np.arange(mask.shape[1]) < batch.unpooled[:, None], 2, 1), 0).astype(np.int32)


def _is_token(lengths: Int32, width: int) -> NDArray[np.bool_]:
    return np.arange(width) < lengths[:, None]
