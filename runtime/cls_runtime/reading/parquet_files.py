"""Parquet files of texts, read batch by batch from any row on. Needs the extra `jobs`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from cls_runtime.errors import ClsError, MissingExtraError, TextError, UsageError
from cls_runtime.reading.arrow_texts import is_dictionary, is_pairs, is_strings, texts_of
from cls_runtime.reading.changes import Stamp, stamp_of
from cls_runtime.reading.nested_names import ways
from cls_runtime.reading.parquet_dictionaries import plain, strings_in_lists, value_bytes
from cls_runtime.reading.parquet_sizes import MAX_ROW_BYTES, batch_rows
from cls_runtime.reading.rows import BLOCK_BYTES, Columns, Rows, listed

# A column chunk would be read whole without a size.
_READING: dict[str, Any] = {"buffer_size": 2**20, "page_checksum_verification": True}


def require_pyarrow(what: str) -> ModuleType:
    """The module `pyarrow`, imported only here and where this was called before.

    Raises:
        MissingExtraError: it is not installed, or cannot be imported, as where memory is lacking; `what` needs it.
    """
    try:
        import pyarrow as pa
    except ModuleNotFoundError:
        raise MissingExtraError(f"{what} need pyarrow: pip install 'cls-export[jobs]'") from None
    except ImportError as error:
        reason = " ".join(str(error).split())
        raise MissingExtraError(
            f"{what} need pyarrow, which is installed but cannot be imported ({reason}); it may lack memory, or be damaged"
        ) from None
    return cast("ModuleType", pa)


class ParquetRows:
    """An open Parquet file with a column of strings, or of lists of two strings; a `RowReader`.

    Args:
        source: an open file, Python's or Arrow's.
        name: what errors call it.
        columns: what is wanted; all of it must be there.
        on_disk: `source` where it is a file of this machine.

    Raises:
        MissingExtraError: without pyarrow.
        UsageError: it is not a Parquet file, or a column is missing or of another type.
    """

    def __init__(self, source: Any, name: str, columns: Columns, *, on_disk: BinaryIO | None = None) -> None:
        require_pyarrow(f"{name}: Parquet files")
        from pyarrow import parquet

        self._source = source
        self._on_disk = on_disk
        self._name = name
        self._columns = columns
        self._names = list(dict.fromkeys((columns.text, *columns.others)))
        self._paths: dict[str, tuple[Any, ...]] = {}  # by the name that was asked for: the field and the structs that it lies in
        self._nested = False
        self._row = 0
        self._pieces: Iterator[tuple[Any, NDArray[np.int64]]] | None = None  # from `_row` on; None where they begin elsewhere
        self._rest: tuple[Any, NDArray[np.int64]] | None = None
        with contextlib.ExitStack() as stack:
            with self._damage_as(UsageError, "is not a Parquet file ({})"):
                self._file = parquet.ParquetFile(source, **_READING)
                stack.callback(self._file.close)
                self._metadata = self._file.metadata
                self._schema = self._file.schema_arrow
                self._check()
                self._kinds = {name: self.field(name) for name in self._names}
                self._by_dictionary = self._file
                if lists := strings_in_lists(self._file, self._names):
                    self._by_dictionary = parquet.ParquetFile(source, metadata=self._metadata, read_dictionary=lists, **_READING)
                    stack.callback(self._by_dictionary.close)
                self._group_rows = [int(self._metadata.row_group(group).num_rows) for group in range(self._metadata.num_row_groups)]
                if min(self._group_rows, default=0) < 0 or sum(self._group_rows) != self.rows:
                    raise UsageError(
                        f"{name} is damaged (it says that it has {self.rows} rows, its row groups have others); restore the file"
                    )
            stack.pop_all()

    @property
    def rows(self) -> int:
        """How many rows the file has."""
        return int(self._metadata.num_rows)

    def field(self, column: str) -> Any:
        """The Arrow type of a wanted column."""
        return self._paths[column][-1].type

    def skip(self, count: int) -> int:
        """Passes over `count` rows; how many there were. Whole row groups are not read."""
        passed = min(count, self.rows - self._row)
        if passed:
            self._row += passed
            self._pieces, self._rest = None, None
        return passed

    def take(self, count: int) -> Rows:
        """1 to `count` rows, no more than `BLOCK_BYTES` of them but for the last one; none behind the last of the file.

        Raises:
            TextError: a row group is damaged, or too large to be read.
        """
        import pyarrow as pa

        first = self._row + 1
        taken: list[Any] = []
        rows, size = 0, 0
        while rows < count and size < BLOCK_BYTES:
            with self._damage_as(TextError, f"is damaged after row {self._row} ({{}}); restore the file"):
                batch, ends = self._next()
                if batch is None:
                    break
                fitting = max(1, int(np.searchsorted(ends, BLOCK_BYTES - size, side="right")))
                fitting = min(fitting, count - rows, len(batch))
                if taken and size + int(ends[fitting - 1]) > BLOCK_BYTES:
                    break
                taken.append(plain(batch.slice(0, fitting), self._kinds))
            size += int(ends[fitting - 1])
            self._rest = (batch.slice(fitting), ends[fitting:] - ends[fitting - 1]) if fitting < len(batch) else None
            rows += fitting
            self._row += fitting
        if not taken:
            return Rows([], [])
        batch = taken[0] if len(taken) == 1 else pa.Table.from_batches(taken).combine_chunks().to_batches()[0]
        return self._rows(batch, first)

    def position(self) -> int | None:
        """None: a Parquet file says how many rows it has."""
        return None

    def stamp(self) -> Stamp | None:
        """What the open file has now; None behind a URI."""
        return stamp_of(self._on_disk)

    def close(self) -> None:
        """Closes the file."""
        self._by_dictionary.close()
        self._file.close()

    def _next(self) -> tuple[Any, NDArray[np.int64]]:
        """The next rows as a record batch, None at the end; and how many bytes it has up to each of them."""
        if self._rest is not None:
            return self._rest
        if self._pieces is None:
            self._pieces = self._from(self._row)
        self._rest = next(self._pieces, None)
        if self._rest is None:
            if self._row != self.rows:
                raise ValueError(f"it has {self.rows} rows by its own account")
            return None, np.empty(0, dtype=np.int64)
        return self._rest

    def _from(self, row: int) -> Iterator[tuple[Any, NDArray[np.int64]]]:
        """All batches from `row` on. Each row group by itself, so that what is in a batch does not depend on where it began."""
        first = 0
        for group, rows in enumerate(self._group_rows):
            if first + rows > row:
                seen = 0
                size, in_dictionaries = batch_rows(self._file, group, self._names, self._source, self._name)
                file = self._by_dictionary if in_dictionaries else self._file
                for read in file.iter_batches(batch_size=size, row_groups=[group], columns=self._names, use_threads=False):
                    batch = self._flat(read)
                    ends = np.cumsum(self._row_bytes(batch, first + seen + 1))
                    passed = min(max(0, row - first - seen), len(batch))
                    seen += len(batch)
                    if passed < len(batch):
                        yield batch.slice(passed), ends[passed:] - (ends[passed - 1] if passed else 0)
                if seen != rows:
                    raise ValueError(f"row group {group} has {seen} rows, {rows} by its own account")
            first += rows

    def _row_bytes(self, batch: Any, first: int) -> NDArray[np.int64]:
        """About how many bytes each row has, [n]; the first is number `first` of the file."""
        sizes = np.zeros(len(batch), dtype=np.int64)
        for name, array in zip(batch.schema.names, batch.columns, strict=True):
            of_column = value_bytes(array)
            if of_column.max(initial=0) > MAX_ROW_BYTES and strings_in_lists(self._file, [name]):
                place = int(of_column.argmax())
                raise TextError(
                    f"{self._name} row {first + place}: {name!r} has {of_column[place]:,} bytes, more than {MAX_ROW_BYTES:,};"
                    " shorten its list, and write the file again"
                )
            sizes += of_column
        return sizes

    def _flat(self, batch: Any) -> Any:
        """The batch with what is within structs as columns of its own, named as it was asked for."""
        import pyarrow as pa

        if not self._nested:
            return batch
        return pa.RecordBatch.from_arrays([_within(batch, path) for path in self._paths.values()], names=self._names)

    def _rows(self, batch: Any, first: int) -> Rows:
        """The rows of a batch, the first of which is number `first` of the file."""
        name = self._columns.text
        column = batch.column(batch.schema.names.index(name))
        texts, errors = texts_of(column, name, self._name, first, expected=self._columns.expected)
        return Rows(texts, errors, batch=batch, first=first)

    def _check(self) -> None:
        for column in self._names:
            found = _paths(list(self._schema), column)
            if len(found) != 1:
                many = "more than one column" if found else "no column"
                hint = "; rename one of them" if found else "; choose one with --column" if column == self._columns.text else ""
                raise UsageError(f"{self._name} has {many} {column!r}; its columns are {listed(_leaves(self._schema))}{hint}")
            (self._paths[column],) = found
        self._nested = any(len(path) > 1 for path in self._paths.values())
        kind = self.field(self._columns.text)
        if not is_strings(kind) and not (self._columns.pairs and is_pairs(kind)):
            kind = kind.value_type if is_dictionary(kind) else kind  # counts as the values in it
            hint = f"; choose one of its fields with --column {self._columns.text}.NAME" if _fields(kind) else ""
            expected = "string or a list of two strings" if self._columns.pairs else "string"
            raise UsageError(f"{self._name}: column {self._columns.text!r} is {kind}, expected {expected}{hint}")

    @contextlib.contextmanager
    def _damage_as(self, kind: type[ClsError], message: str) -> Iterator[None]:
        """An error of one line for whatever Arrow raises: of damaged bytes it raises its own errors, Python's, and those of decoding."""
        try:
            yield
        except (ClsError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001
            raise kind(f"{self._name} {message.format(' '.join(str(error).split())[:300] or type(error).__name__)}") from None


def _paths(fields: Sequence[Any], name: str) -> list[tuple[Any, ...]]:
    """The fields that a name may mean, each with those that it lies in."""
    for outer, inner in ways(name):
        same = [field for field in fields if field.name == outer]
        own: list[tuple[Any, ...]] = [(field,) for field in same]
        found = own if inner is None else [(field, *rest) for field in same for rest in _paths(_fields(field.type), inner)]
        if found:
            return found
    return []


def _fields(kind: Any) -> list[Any]:
    """The fields of a struct; of no other type, since what is within a list is not one value a row."""
    return [kind.field(place) for place in range(kind.num_fields)] if str(kind).startswith("struct<") else []


def _leaves(schema: Any) -> list[str]:
    """The names of columns, of a struct those of its fields."""
    return [f"{field.name}.{inner.name}" if inner else field.name for field in schema for inner in _fields(field.type) or [None]]


def _within(batch: Any, path: Sequence[Any]) -> Any:
    """The array at the end of a path; null where any struct on it is."""
    from pyarrow import compute

    array = batch.column(batch.schema.names.index(path[0].name))
    for field in path[1:]:
        array = compute.struct_field(array, [array.type.get_field_index(field.name)])
    return array
