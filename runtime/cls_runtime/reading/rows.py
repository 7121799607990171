"""Rows of texts, however a file stores them: what every reader is asked for, and what it gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from cls_runtime.reading.changes import Stamp

BATCH_ROWS = 1024  # how many are worth reading at once
BLOCK_BYTES = 2**20  # and with how many bytes
LONGEST_NAME = 100  # that errors show whole

# A text, or a pair of texts that the model reads as one input.
RowText = str | tuple[str, str]


@dataclass(frozen=True)
class Columns:
    """Which columns are wanted, and how they are read.

    Attributes:
        text: the text's; a dot reaches into a struct of Parquet or an object of JSON.
        others: those whose values are passed on as they are; likewise.
        pairs: whether two strings in a list are a text too, a pair; otherwise a list is none.
        delimiter: what separates the fields of CSV, one character.
    """

    text: str = "text"
    others: tuple[str, ...] = ()
    pairs: bool = False
    delimiter: str = ","

    @property
    def expected(self) -> str:
        """What a text may be, for errors."""
        return "a string or a pair of strings" if self.pairs else "a string"


@dataclass(frozen=True)
class Record:
    """One record of a file of lines, or why there is none: `text` is a text, or None with `error`.

    `line` is the number of its last line; `values` are those of `Columns.others`, None where a JSON object has no such field; `fields` are
    the names that a JSON object has.
    """

    line: int
    text: RowText | None
    values: tuple[Any, ...] = ()
    error: str = ""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rows:
    """Consecutive rows of one file.

    Attributes:
        texts: [n]; None where there is none.
        errors: [n]; why there is none, with the file and the line; empty where there is a text.
        records: [n], the rows of a file of lines; empty for Parquet.
        batch: the rows of a Parquet file as an Arrow record batch, its columns named as they were asked for; None for others.
        first: the number of the first row in its Parquet file, from 1.
    """

    texts: list[RowText | None]
    errors: list[str]
    records: tuple[Record, ...] = ()
    batch: Any = None
    first: int = 1

    @classmethod
    def of_records(cls, records: Sequence[Record]) -> Rows:
        """The rows of a file of lines."""
        return cls([record.text for record in records], [record.error for record in records], tuple(records))


class RowReader(Protocol):
    """An open file of texts, read from the front."""

    def skip(self, count: int) -> int:
        """Passes over rows; how many there were."""

    def take(self, count: int) -> Rows:
        """1 to `count` rows, no more than `BLOCK_BYTES` of them but for the last one; none at the end.

        Raises:
            TextError: the file is damaged as a whole.
        """

    def position(self) -> int | None:
        """How many bytes of the file were read; None where that is unknown."""

    def stamp(self) -> Stamp | None:
        """What tells that the open file was changed; None for what is no file here."""


def listed(names: Sequence[str]) -> str:
    """Names for an error message, the first twenty."""
    shown = ", ".join(shortened(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"


def shortened(name: str) -> str:
    """A name for an error message; what is no header may be as long as a file."""
    return repr(name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…")
