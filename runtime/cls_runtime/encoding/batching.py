"""Which texts run together: texts of near-equal length, within the tokens that are best for the engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Batching


@dataclass(frozen=True)
class Batch:
    """The places of texts that run together, the longest text's first."""

    indices: NDArray[np.intp]


def plan_batches(lengths: Sequence[int] | NDArray[np.intp], batching: Batching) -> list[Batch]:
    """Splits texts of these `lengths` (in tokens) into batches, longest first.

    Every index is in exactly one batch. A batch's tokens, with those that pad its texts to the longest where the engine pads, stay within
    `token_budget`; a text that is longer than the budget has a batch of its own. A batch takes shorter texts until it is full; after that
    only texts of its own length, which need no padding. Where the engine keeps shapes it is full at the budget. Longest first lets the
    small batches fill the gaps at the end.

    >>> plan = plan_batches([3, 9, 3, 2], Batching(token_budget=9, full_tokens=9))
    >>> [batch.indices.tolist() for batch in plan]
    [[1], [0, 2, 3]]
    """
    sizes = np.maximum(lengths, 1)
    if len(sizes) == 1:
        return [Batch(np.zeros(1, dtype=np.intp))]
    order = np.argsort(-sizes, kind="stable")
    sizes = sizes[order]
    negated = -sizes  # ascending, for searchsorted
    ends = sizes.cumsum()
    budget = batching.token_budget
    full_tokens = budget if batching.keeps_shapes else batching.full_tokens
    batches: list[Batch] = []
    start, count = 0, len(order)
    while start < count:
        longest = int(sizes[start])
        if batching.pads:
            most, full = start + budget // longest, start - (-full_tokens // longest)
        else:
            before = int(ends[start]) - longest
            most = int(np.searchsorted(ends, before + budget, side="right"))
            full = int(np.searchsorted(ends, before + full_tokens)) + 1
        same_length = count if sizes[-1] == longest else int(np.searchsorted(negated, -longest, side="right"))
        stop = max(start + 1, min(most, max(full, same_length)))
        batches.append(Batch(order[start:stop]))
        start = stop
    return batches
