"""Which texts run together: batches of near-equal length within a token budget, padded on the right."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import TokenBatch
from cls_runtime.tokenizer import TokenizedText

# Tokens in a batch, padding included.
TOKEN_BUDGET = 1024

# From here on a batch is large enough to be fast, and padding costs more than another batch. Measured with all-MiniLM-L6-v2 on two cores,
# 600 sentences of mean length 24, CPU seconds of the whole process, in turns: with ONNX Runtime 128 is 1.05 (fp32) and 1.01 (int8) times as
# fast as 512, and 1.10 and 1.08 times as fast as batches filled to the budget.
FULL_TOKENS = 128
# These prepare kernels for each shape that they meet. Their batches are filled to the budget, so that texts of one length always come in
# the same number: for 1,500 sentences 1.06 times as fast as 512 tokens and then all of a length, and 1.25 times as fast as 128.
FILLED_TO_THE_BUDGET = frozenset({"openvino"})


def plan_batches(
    lengths: Sequence[int] | NDArray[np.intp], *, token_budget: int = TOKEN_BUDGET, engine: str = "onnxruntime"
) -> list[NDArray[np.intp]]:
    """Splits texts of these `lengths` (in tokens) into batches, longest first: each array holds the indices of one batch.

    Every index is in exactly one batch. A batch's padded size, texts times its longest, stays within `token_budget`; a text
    that is longer than the budget has a batch of its own. A batch takes shorter texts only until it has the tokens that make it full on
    `engine` (some fill the budget), after that only texts of its own length, which need no padding. Longest first lets the small batches
    fill the gaps at the end.

    >>> [batch.tolist() for batch in plan_batches([3, 9, 3, 2], token_budget=9)]
    [[1], [0, 2, 3]]
    """
    sizes = np.maximum(np.asarray(lengths, dtype=np.intp), 1)
    order = np.argsort(-sizes, kind="stable")
    negated = -sizes[order]  # ascending, for searchsorted
    batches: list[NDArray[np.intp]] = []
    full_tokens = token_budget if engine in FILLED_TO_THE_BUDGET else FULL_TOKENS
    start = 0
    while start < len(order):
        longest = -int(negated[start])
        most = start + max(1, token_budget // longest)
        full = start + math.ceil(full_tokens / longest)
        same_length = int(np.searchsorted(negated, -longest, side="right"))
        stop = min(most, max(full, same_length))
        batches.append(order[start:stop])
        start = stop
    return batches


def pad(texts: Sequence[TokenizedText], *, pad_id: int) -> TokenBatch:
    """The texts as int64 [B, S], padded on the right with `pad_id`, mask 0 and type 0.

    `token_type_ids` is None unless the texts have type ids.
    """
    lengths = np.array([len(text) for text in texts])
    mask = np.arange(lengths.max()) < lengths[:, None]  # [B, S]
    input_ids = np.full(mask.shape, pad_id, dtype=np.int64)
    input_ids[mask] = np.concatenate([text.ids for text in texts])
    type_ids = [text.type_ids for text in texts if text.type_ids is not None]
    token_type_ids = None
    if type_ids:
        token_type_ids = np.zeros(mask.shape, dtype=np.int64)
        token_type_ids[mask] = np.concatenate(type_ids)
    return TokenBatch(input_ids, mask.astype(np.int64), token_type_ids)
