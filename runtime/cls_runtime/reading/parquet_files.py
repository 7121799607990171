"""Parquet files of texts, read batch by batch from any row on. Needs the extra `jobs`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, cast

from cls_runtime.errors import MissingExtraError, TextError, UsageError
from cls_runtime.reading.rows import BATCH_ROWS, Columns, Rows, listed

_STRINGS = ("string", "large_string", "string_view")


def require_pyarrow(what: str) -> ModuleType:
    """The module `pyarrow`, imported only here and where this was called before.

    Raises:
        MissingExtraError: it is not installed; `what` needs it.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError(f"{what} need pyarrow: pip install 'cls-export[jobs]'") from None
    return cast("ModuleType", pa)


class ParquetRows:
    """An open Parquet file with a column of strings; a `RowReader`.

    Args:
        source: a path or an open Arrow file.
        name: what errors call it.
        columns: what is wanted; all of it must be there.

    Raises:
        MissingExtraError: without pyarrow.
        UsageError: it is not a Parquet file, or a column is missing or of another type.
    """

    def __init__(self, source: Any, name: str, columns: Columns) -> None:
        pa = require_pyarrow(f"{name}: Parquet files")
        from pyarrow import parquet

        self._failures = (pa.ArrowException, OSError)
        self._name = name
        self._columns = columns
        self._row = 0
        self._batches: Iterator[Any] | None = None  # from `_row` on; None where they begin elsewhere
        self._rest: Any = None
        try:
            self._file = parquet.ParquetFile(source)
        except (pa.ArrowException, ValueError) as error:
            raise UsageError(f"{name} is not a Parquet file ({' '.join(str(error).split())})") from None
        try:
            self._check()
        except UsageError:
            self._file.close()
            raise

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return int(self._file.metadata.num_rows)

    def field(self, column: str) -> Any:
        """The Arrow type of a column."""
        return self._file.schema_arrow.field(column).type

    def skip(self, count: int) -> int:
        """Passes over `count` rows; how many there were. Whole row groups are not read."""
        passed = min(count, self.rows - self._row)
        if passed:
            self._row += passed
            self._batches, self._rest = None, None
        return passed

    def take(self, count: int) -> Rows:
        """1 to `count` rows; none behind the last.

        Raises:
            TextError: a row group is damaged.
        """
        batch = self._rest if self._rest is not None else self._next()
        if batch is None:
            return Rows([], [])
        self._rest = batch.slice(count) if len(batch) > count else None
        batch = batch.slice(0, count)
        texts: list[str | None] = batch.column(self._columns.text).to_pylist()
        errors = [self._null(place) if text is None else "" for place, text in enumerate(texts)]
        self._row += len(batch)
        return Rows(texts, errors, batch=batch)

    def position(self) -> int | None:
        """None: a Parquet file says how many rows it has."""
        return None

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    def _from(self, row: int) -> Iterator[Any]:
        """All batches from `row` on."""
        metadata, first = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            rows = metadata.row_group(group).num_rows
            if first + rows > row:
                break
            first += rows
        else:
            return iter(())
        groups = list(range(group, metadata.num_row_groups))
        names: Sequence[str] = list(dict.fromkeys((self._columns.text, *self._columns.others)))
        return _dropping(self._file.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=names), row - first)

    def _next(self) -> Any:
        if self._batches is None:
            self._batches = self._from(self._row)
        try:
            return next(self._batches, None)
        except self._failures as error:
            reason = " ".join(str(error).split())
            raise TextError(f"{self._name} is damaged after row {self._row} ({reason}); restore the file") from None

    def _null(self, place: int) -> str:
        """The error for the row that is `place` behind the next one; rows count from 1, as lines do."""
        return f"{self._name} row {self._row + place + 1}: {self._columns.text!r} is null, expected a string"

    def _check(self) -> None:
        names = self._file.schema_arrow.names
        for column in (self._columns.text, *self._columns.others):
            if names.count(column) != 1:
                hint = "; choose one with --column" if column == self._columns.text else ""
                raise UsageError(f"{self._name} has no column {column!r}; its columns are {listed(names)}{hint}")
        kind = self.field(self._columns.text)
        kind = getattr(kind, "value_type", kind)  # a dictionary column counts as the strings in it
        if str(kind) not in _STRINGS:
            raise UsageError(f"{self._name}: column {self._columns.text!r} is {kind}, expected string")


def _dropping(batches: Iterator[Any], rows: int) -> Iterator[Any]:
    """`batches` without their first `rows` rows."""
    for batch in batches:
        if rows >= len(batch):
            rows -= len(batch)
            continue
        yield batch.slice(rows) if rows else batch
        rows = 0
