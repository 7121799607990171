"""Which texts run together: batches of near-equal length within a token budget, padded on the right."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.tokenizer import TokenizedText
from cls_runtime.engines.padding import PaddedBatch

# Tokens in a batch, padding included.
TOKEN_BUDGET = 1024

# From here on a batch is large enough to be fast, and padding costs more than another batch. Measured with all-MiniLM-L6-v2 on two cores,
# 600 sentences of mean length 24, CPU seconds of the whole process, in turns: with ONNX Runtime 128 is 1.05 (fp32) and 1.01 (int8) times as
# fast as 512, and 1.10 and 1.08 times as fast as batches filled to the budget.
FULL_TOKENS = 128
# These prepare kernels for each shape that they meet, which takes longer than to run them, and keep some; so their batches have few shapes.
# They are filled to the budget, so that texts of one length always come in the same number (for 1,500 sentences 1.06 times as fast as 512
# tokens and then all of a length, and 1.25 times as fast as 128); what is left at the end, or is all there is, is rounded up.
KERNELS_FOR_EACH_SHAPE = frozenset({"openvino"})
WIDTH_STEP = 8


@dataclass(frozen=True)
class Batch:
    """Texts that run together, and the shape [B, S] that they are padded to: `rows` at least as many as texts, `width` as their longest."""

    indices: NDArray[np.intp]
    rows: int
    width: int


def plan_batches(
    lengths: Sequence[int] | NDArray[np.intp], *, max_length: int, token_budget: int = TOKEN_BUDGET, engine: str = "onnxruntime"
) -> list[Batch]:
    """Splits texts of these `lengths` (in tokens) into batches, longest first.

    Every index is in exactly one batch. A batch's padded size, rows times width, stays within `token_budget`; a text
    that is longer than the budget has a batch of its own. A batch takes shorter texts only until it has the tokens that make it full on
    `engine` (some fill the budget), after that only texts of its own length, which need no padding. Longest first lets the small batches
    fill the gaps at the end. No batch is wider than `max_length`, which no text is longer than.

    >>> [batch.indices.tolist() for batch in plan_batches([3, 9, 3, 2], max_length=16, token_budget=9)]
    [[1], [0, 2, 3]]
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.intp), 1)
    order = np.argsort(-sizes, kind="stable")
    negated = -sizes[order]  # ascending, for searchsorted
    batches: list[Batch] = []
    few_shapes = engine in KERNELS_FOR_EACH_SHAPE
    full_tokens = token_budget if few_shapes else FULL_TOKENS
    start = 0
    while start < len(order):
        longest = -int(negated[start])
        most = max(1, token_budget // longest)
        full = start + math.ceil(full_tokens / longest)
        same_length = int(np.searchsorted(negated, -longest, side="right"))
        indices = order[start : min(start + most, max(full, same_length))]
        rows, width = len(indices), longest
        if few_shapes and rows < most:
            rows, width = _rounded_up(rows, longest, max_length=max_length, token_budget=token_budget)
        batches.append(Batch(indices, rows=rows, width=width))
        start += len(indices)
    return batches


def _rounded_up(rows: int, width: int, *, max_length: int, token_budget: int) -> tuple[int, int]:
    """The next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... rows, by the next multiple of `WIDTH_STEP`, where the budget has room for each."""
    wider = min(-(-width // WIDTH_STEP) * WIDTH_STEP, max_length)
    if rows * wider <= token_budget:
        width = wider
    power = 1 << (rows - 1).bit_length()
    more = power * 3 // 4 if rows <= power * 3 // 4 else power
    return min(more, token_budget // width), width


def pad(
    texts: Sequence[TokenizedText],
    *,
    pad_id: int,
    rows: int | None = None,
    width: int | None = None,
    prompt_tokens: Sequence[int] | None = None,
) -> PaddedBatch:
    """The texts as int64 [B, S], padded on the right with `pad_id`, mask 0 and type 0.

    B is `rows`, which repeat the last text where there are more, or the number of texts; S is `width`, or the longest text's.
    `token_type_ids` is None unless the texts have type ids. Where `prompt_tokens` has a number for each text, so many of its first tokens
    have mask 2, which says that they are read and not pooled; of a text that is shorter, all.
    """
    if rows is not None:
        texts = [*texts, *itertools.repeat(texts[-1], rows - len(texts))]
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(width or lengths.max()) < lengths[:, None]  # [B, S]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = np.concatenate([text.ids for text in texts])
    type_ids = [text.type_ids for text in texts if text.type_ids is not None]
    token_type_ids = None
    if type_ids:
        token_type_ids = np.zeros(mask.shape, dtype=np.int64)
        token_type_ids[mask] = np.concatenate(type_ids)
    attention_mask = mask.astype(np.int64)
    if prompt_tokens is not None:
        counts = np.array([*prompt_tokens, *itertools.repeat(prompt_tokens[-1], len(texts) - len(prompt_tokens))])
        attention_mask[mask & (np.arange(mask.shape[1]) < counts[:, None])] = 2
    return PaddedBatch(input_ids, attention_mask, token_type_ids)
