"""One input file of a job as rows: texts, the reasons where there is none, and Arrow arrays of the columns that are passed on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from cls_runtime.errors import TextError
from cls_runtime.jobs.columns import ColumnPlan, arrays_of, checked_values
from cls_runtime.jobs.filesystems import is_uri, opened_parquet
from cls_runtime.reading.line_formats import Columns, LineRecords, Record
from cls_runtime.reading.parquet_files import ParquetTexts, null_text
from cls_runtime.reading.text_files import STANDARD_INPUT, TextFile


@dataclass(frozen=True)
class Piece:
    """Rows of one file: `texts` [n], `errors` [n] (empty where there is a text), and an Arrow array for each passed column."""

    texts: list[str | None]
    errors: list[str]
    arrays: list[Any]


class Source(Protocol):
    """An open input file, read from the front."""

    def skip(self, count: int) -> int:
        """Passes over rows; how many there were."""

    def take(self, count: int) -> Piece:
        """At most `count` rows; none at the end."""

    def position(self) -> int | None:
        """How many bytes of the file were read; None where that is unknown."""


class _LineSource:
    def __init__(self, records: LineRecords, name: str, plan: ColumnPlan) -> None:
        self._records = records
        self._name = name
        self._plan = plan

    def skip(self, count: int) -> int:
        return self._records.skip(count)

    def take(self, count: int) -> Piece:
        records = [self._encodable(record) for record in self._records.take(count)]
        arrays: list[Any] = []
        if self._plan.passed:
            try:
                arrays = arrays_of(self._plan, records)
            except TextError:
                records = checked_values(self._plan, records, self._name)
                arrays = arrays_of(self._plan, records)
        return Piece([record.text for record in records], [record.error for record in records], arrays)

    def position(self) -> int | None:
        return self._records.position()

    def _encodable(self, record: Record) -> Record:
        """JSON can spell a lone surrogate, which no tokenizer takes."""
        if record.text is None or record.text.isascii():
            return record
        try:
            record.text.encode("utf-8")
        except UnicodeEncodeError as error:
            where = f"{self._name} line {record.line} has a lone surrogate U+{ord(record.text[error.start]):04X}"
            return Record(record.line, None, record.values, f"{where} at character {error.start}, which is no Unicode character")
        return record


class _ParquetSource:
    def __init__(self, parquet: ParquetTexts, name: str, columns: Columns, plan: ColumnPlan) -> None:
        self._parquet = parquet
        self._name = name
        self._columns = columns
        self._plan = plan
        self._row = 0

    def skip(self, count: int) -> int:
        passed = min(count, self._parquet.rows - self._row)
        self._row += passed
        return passed

    def take(self, count: int) -> Piece:
        batch = self._parquet.take(self._row, count)
        if batch is None:
            return Piece([], [], [])
        texts: list[str | None] = batch.column(self._columns.text).to_pylist()
        errors = [
            "" if text is not None else null_text(self._name, self._row + place, self._columns.text) for place, text in enumerate(texts)
        ]
        self._row += len(batch)
        passed = self._plan.passed
        arrays = [batch.column(column.source) for column in passed]
        arrays = [array if array.type == column.type else array.cast(column.type) for array, column in zip(arrays, passed, strict=True)]
        return Piece(texts, errors, arrays)

    def position(self) -> int | None:
        return None  # Parquet says how many rows it has


class InputSizes:
    """The bytes of the local files, to tell how much of them was read."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        names = [file.name for file in files]
        known = all(name != STANDARD_INPUT and not is_uri(name) for name in names)
        self._sizes = [Path(name).stat().st_size for name in names] if known else []

    def fraction(self, place: int, position: int | None) -> float | None:
        """How much was read with `position` bytes of file number `place`; None where that is unknown."""
        total = sum(self._sizes)
        return None if position is None or not total else (sum(self._sizes[:place]) + position) / total


@contextlib.contextmanager
def opened_source(file: TextFile, columns: Columns, plan: ColumnPlan) -> Iterator[Source]:
    """The rows of one input file.

    Raises:
        UsageError: it has gone, or cannot be read.
        TextError: it is damaged as a whole.
    """
    if file.kind == ".parquet":
        with opened_parquet(file.name, columns) as parquet:
            yield _ParquetSource(parquet, file.label, columns, plan)
        return
    with file.records(columns) as records:
        yield _LineSource(records, file.label, plan)
