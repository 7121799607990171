"""Few sizes for packed batches: what a batch is filled up to before it runs.

Every row of a filled batch belongs to a text: what fills up is further texts of padding tokens. Rows behind the last text would not do. The
attention kernel leaves them unwritten, whatever is in that memory may be NaN, and RestorePadding puts them where a mean multiplies by 0.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from cls_runtime.engines.base import Int32, TokenBatch
from cls_runtime.engines.packing import packed

# Small batches have one of these sizes. The last text of each is a filler.
BUCKET_TOKENS = (32, 64, 96, 128, 192, 256, 384, 512, 768, 1024)
BUCKET_TEXTS = (2, 5, 9, 17, 33)
_LEAST_WIDTH = 32
# Larger ones are rounded up to one of 64 sizes an octave, at most 1.6% more: memory that one run gave back then fits the next.
_SIZES_AN_OCTAVE = 64


@dataclass(frozen=True)
class Shape:
    """Texts B, tokens T and width S of a packed batch; `is_bucket` where it is one of the few that small batches have."""

    texts: int
    tokens: int
    width: int
    is_bucket: bool = False


def shape_for(batch: TokenBatch) -> Shape:
    """The shape that a batch is filled up to."""
    return _bucket(batch) or _rounded_up(batch)


def filled(batch: TokenBatch, shape: Shape, names: tuple[str, ...]) -> dict[str, Int32]:
    """The inputs `names` of a packed graph for a batch with fillers behind its texts.

    A filler's tokens are the batch's `pad_id`, all at position 0: it may be longer than the model's texts are.
    """
    if batch.texts == 1 and batch.unpooled is None:
        frame = _frame_of_one(batch.tokens, shape, names)
    else:
        frame = _frame(batch.lengths, batch.unpooled, shape, names)
    feeds = dict(frame)
    for name, given, filler in (("input_ids", batch.input_ids, batch.pad_id), ("token_type_ids", batch.token_type_ids, 0)):
        if name in feeds and given is not None:
            feeds[name] = values = np.full(shape.tokens, filler, dtype=np.int32)
            values[: batch.tokens] = given
    return feeds


@functools.lru_cache(maxsize=1024)
def _frame_of_one(tokens: int, shape: Shape, names: tuple[str, ...]) -> dict[str, Int32]:
    """Kept, since it is made anew for each request otherwise: what surrounds one text depends on its length alone."""
    frame = _frame(np.array([tokens], dtype=np.int32), None, shape, names)
    for array in frame.values():
        array.setflags(write=False)
    return frame


def _frame(lengths: Int32, unpooled: Int32 | None, shape: Shape, names: tuple[str, ...]) -> dict[str, Int32]:
    """The inputs, with zeros for the tokens' own."""
    texts, own = len(lengths), int(lengths.sum())
    if fillers := shape.texts - texts:
        more = np.full(fillers, (shape.tokens - own) // fillers, dtype=np.int32)
        more[: (shape.tokens - own) % fillers] += 1
        lengths = np.concatenate([lengths, more])
        unpooled = None if unpooled is None else np.concatenate([unpooled, np.zeros(fillers, dtype=np.int32)])
    nothing = np.zeros(shape.tokens, dtype=np.int32)
    feeds = packed(TokenBatch(nothing, lengths, unpooled=unpooled), names, width=shape.width)
    if "position_ids" in feeds:
        feeds["position_ids"][own:] = 0
    return feeds


def _bucket(batch: TokenBatch) -> Shape | None:
    texts = next((most for most in BUCKET_TEXTS if most > batch.texts), None)
    if texts is None:
        return None
    fillers = texts - batch.texts
    tokens = next((most for most in BUCKET_TOKENS if most >= batch.tokens + fillers), None)
    if tokens is None:
        return None
    longest = max(batch.longest, -(-(tokens - batch.tokens) // fillers), _LEAST_WIDTH)
    return Shape(texts, tokens, 1 << (longest - 1).bit_length(), is_bucket=True)


def _rounded_up(batch: TokenBatch) -> Shape:
    step = max(1, (1 << (batch.tokens.bit_length() - 1)) // _SIZES_AN_OCTAVE)
    tokens = -(-batch.tokens // step) * step
    width = batch.longest
    return Shape(batch.texts + -(-(tokens - batch.tokens) // width), tokens, width)
