"""One warning for all texts of a job that were longer than the model takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

from cls_runtime.encoding.report import Truncation
from cls_runtime.errors import TruncationWarning
from cls_runtime.jobs.rows import Counts


@dataclass
class CutTexts:
    """The texts that were cut so far; only the first and the worst are kept, a corpus may have millions."""

    first: Truncation | None = None
    worst: Truncation | None = None

    def add(self, truncated: Sequence[Truncation]) -> None:
        """Takes the next ones, in the input's order."""
        for item in truncated:
            self.first = self.first or item
            if self.worst is None or item.removed_tokens > self.worst.removed_tokens:
                self.worst = item


def warn_of_cut_texts(total: Counts, *, max_length: int, cut: CutTexts | None = None, stacklevel: int) -> None:
    """Gives the TruncationWarning of a whole job; `cut` where it is known which texts they are."""
    which = ""
    if cut is not None and cut.first is not None and cut.worst is not None:
        first, worst = cut.first, cut.worst
        which = f" (first text {first.index}; most: text {worst.index}, by {worst.by})"
    warnings.warn(
        f"{total.truncated} of {total.rows} texts exceed the model's {max_length} tokens and were truncated{which}; "
        "--on-overflow raise stops at them",
        TruncationWarning,
        stacklevel=stacklevel + 1,
    )
