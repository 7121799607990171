"""What flows through a job: blocks of rows on their way in, and the same rows with their vectors on their way out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.report import Truncation
from cls_runtime.encoding.texts import Text, characters

OnError = Literal["raise", "skip", "null"]


@dataclass(frozen=True)
class SkippedRow:
    """A row that could not be read: its number in the job's input (from 0), and why, with the file and the line."""

    row: int
    reason: str


@dataclass(frozen=True)
class RowBlock:
    """Consecutive rows of the job's input.

    Attributes:
        part: the number of the first row of the range that was asked for; blocks of one range have the same.
        start: the first row that the block covers, skipped ones included.
        stop: the row behind the last.
        rows: int64 [n], the numbers of the rows that are here.
        texts: their texts, or pairs of them; None for a row that could not be read, where such rows are kept.
        columns: their id and kept columns as an Arrow record batch; None where the output has no columns.
        skipped: the rows that could not be read, left out or kept without a text.
        fraction: how much of the input was read, by bytes; None where that is unknown.
    """

    part: int
    start: int
    stop: int
    rows: NDArray[np.int64]
    texts: list[Text | None]
    columns: Any = None
    skipped: tuple[SkippedRow, ...] = ()
    fraction: float | None = None

    @property
    def held_bytes(self) -> int:
        """About how much memory its texts and columns take."""
        texts = sum(characters(text) for text in self.texts if text is not None)
        return texts if self.columns is None else texts + int(self.columns.nbytes)


@dataclass(frozen=True)
class Counts:
    """What was done, in rows except `tokens`, which counts those that were computed. `read` are rows of the input, `rows` of the output."""

    read: int = 0
    rows: int = 0
    skipped: int = 0
    truncated: int = 0
    duplicates: int = 0
    tokens: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            read=self.read + other.read,
            rows=self.rows + other.rows,
            skipped=self.skipped + other.skipped,
            truncated=self.truncated + other.truncated,
            duplicates=self.duplicates + other.duplicates,
            tokens=self.tokens + other.tokens,
        )


@dataclass(frozen=True)
class EmbeddedBlock:
    """A block with its vectors: float32 [n, width], in the order of `block.rows`; NaN where there is no text.

    `cut` are texts that were longer than the model takes, by their rows, each distinct text once.
    """

    block: RowBlock
    vectors: NDArray[np.float32]
    counts: Counts
    cut: tuple[Truncation, ...] = ()
