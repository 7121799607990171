"""Which of a text's token rows are kept as golden: all of a short text's, of a longer one a few spread evenly over it.

A row for every token would make a bundle's golden vectors as large as a small model; these few see a wrong graph as well.

>>> sampled_positions(3).tolist(), sampled_positions(22).tolist()
([0, 1, 2], [0, 3, 6, 9, 12, 15, 18, 21])
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLED_ROWS = 8


def sampled_positions(tokens: int) -> NDArray[np.int64]:
    """The positions of a text of so many tokens: every one up to `SAMPLED_ROWS`, else so many with the first and the last, ascending."""
    if tokens <= SAMPLED_ROWS:
        return np.arange(tokens)
    return np.arange(SAMPLED_ROWS) * (tokens - 1) // (SAMPLED_ROWS - 1)  # integers, so that every machine takes the same
