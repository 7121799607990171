"""A job's input: files, folders, globs or standard input as one sequence of rows, read from any row on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from cls_runtime.errors import TextError, UsageError
from cls_runtime.jobs.column_arrays import with_arrays
from cls_runtime.jobs.columns import NO_COLUMNS, ColumnPlan, plan_columns
from cls_runtime.jobs.file_contents import contents_sha256, file_stamp
from cls_runtime.jobs.filesystems import is_uri, opened_parquet, opened_rows
from cls_runtime.jobs.names import expand
from cls_runtime.jobs.rows import OnError, RowBlock, SkippedRow
from cls_runtime.reading.changes import Stamp, check_unchanged
from cls_runtime.reading.rows import BATCH_ROWS, Columns, Rows
from cls_runtime.reading.text_files import TextFile, checked_files

END = 2**62


@dataclass(frozen=True, kw_only=True)
class InputIdentity:
    """What a file is recognized by: the last part of its name (bytes that are not UTF-8 in escapes), its size, and the SHA-256 of what is
    in it, as `contents_sha256` has it. Of what can be read only once nobody knows either.
    """

    name: str
    size_bytes: int
    sha256: str


@dataclass(frozen=True)
class JobInputs:
    """The files of a job, in order. Plain data: it goes to other processes.

    Attributes:
        files: each with its format.
        columns: what is read from them.
        plan: the id and the kept columns.
        on_error: what becomes of a row that cannot be read.
        stamps: of each file, when it was looked up: the one that is read later must be the same. None where that is unknown.
    """

    files: tuple[TextFile, ...]
    columns: Columns
    plan: ColumnPlan
    on_error: OnError
    stamps: tuple[Stamp | None, ...] = ()

    @classmethod
    def find(
        cls,
        names: Sequence[str],
        *,
        column: str = "text",
        id_column: str | None = None,
        keep: Sequence[str] = (),
        delimiter: str | None = None,
        on_error: OnError = "raise",
        with_columns: bool = True,
    ) -> JobInputs:
        """Looks names up: paths, URIs of Parquet files, folders, globs, `-`. Every file is opened once, so that mistakes show now.

        Raises:
            UsageError: nothing is there, a format is unknown, a column is missing, or no file is CSV and there is a delimiter.
            MissingExtraError: pyarrow is needed.
        """
        others = tuple([] if id_column is None else [id_column]) + tuple(keep)
        columns = Columns(column, others, pairs=True, delimiter=delimiter or ",")
        expanded = [path for name in names for path in expand(name)]
        local = [name for name in expanded if not is_uri(name)]
        stamps = tuple(file_stamp(name) for name in expanded)
        known = {file.name: file for file in checked_files(local, columns)}
        files = tuple(known.get(name) or _remote(name, columns) for name in expanded)
        if delimiter is not None and not any(file.kind == ".csv" for file in files):
            raise UsageError(f"--delimiter goes with .csv files; found {files[0].label}")
        plan = plan_columns(files, columns=columns, id_column=id_column) if with_columns else NO_COLUMNS
        return cls(files, columns, plan, on_error, stamps)

    @property
    def seekable(self) -> bool:
        """Whether the rows can be read again: standard input and named pipes cannot."""
        return not any(not is_uri(file.name) and file.once for file in self.files)

    def identities(self) -> tuple[InputIdentity, ...]:
        """What the files are recognized by, in order. Each is read for it, from its first byte to its last.

        Raises:
            TextError: a file was changed since it was looked up.
            UsageError: a file has gone.
        """
        known: dict[str, InputIdentity] = {}
        for file, stamp in zip(self.files, self.stamps, strict=True):
            known[file.name] = known.get(file.name) or _identity(file, stamp)
        return tuple(known[file.name] for file in self.files)

    def row_counts(self) -> tuple[int, ...] | None:
        """Rows of each file, where all are Parquet and say so; None otherwise."""
        if any(file.kind != ".parquet" for file in self.files):
            return None
        counts = []
        for file in self.files:
            with opened_parquet(file, self.columns) as parquet:
                counts.append(parquet.rows)
        return tuple(counts)

    def count_rows(self) -> int:
        """Rows of all files. Lines are told apart for it and not looked into; Parquet files say how many they have.

        Raises:
            TextError: a file is damaged as a whole.
            UsageError: a file has gone.
        """
        rows = 0
        for file in self.files:
            with opened_rows(file, self.columns) as reader:
                rows += reader.skip(END)
        return rows

    def between(self, row_counts: Sequence[int], start: int, stop: int) -> tuple[JobInputs, int]:
        """The files that hold the rows from `start` to `stop`, and the number of the first row in them."""
        ends = np.cumsum(row_counts)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        # Another machine may have a copy of the file, of the same size and of another time.
        return replace(self, files=self.files[first : last + 1], stamps=()), int(ends[first] - row_counts[first])

    def blocks(self, ranges: Iterable[tuple[int, int]], *, first_row: int = 0) -> Iterator[RowBlock]:
        """The rows of ascending `ranges` (start, stop), in blocks that cross neither a range's nor a file's end.

        Args:
            ranges: read one at a time.
            first_row: the number of the first row in these files.

        Raises:
            TextError: a row that cannot be read, with `on_error="raise"`; a file that is damaged as a whole, or was changed.
            UsageError: a file has gone.
        """
        wanted = iter(ranges)
        part = next(wanted, None)
        position = first_row
        sizes = _InputSizes([stamp.size_bytes if stamp else None for stamp in self.stamps])
        for place, file in enumerate(self.files):
            if part is None:
                return
            with opened_rows(file, self.columns) as reader:
                opened = self.stamps[place] if self.stamps else reader.stamp()
                check_unchanged(opened, reader.stamp(), file.label)
                while part is not None:
                    start, stop = part
                    if position < start:
                        position += reader.skip(start - position)
                        if position < start:
                            break  # the file ends before the range begins
                    taken = reader.take(min(BATCH_ROWS, stop - position))
                    check_unchanged(opened, reader.stamp(), file.label)
                    rows, arrays = with_arrays(self.plan, taken, file)
                    if not rows.texts:
                        break
                    yield self._block(rows, arrays, part=start, start=position, fraction=sizes.fraction(place, reader.position()))
                    position += len(rows.texts)
                    if position == stop:
                        part = next(wanted, None)

    def _block(self, rows: Rows, arrays: list[Any], *, part: int, start: int, fraction: float | None) -> RowBlock:
        texts = rows.texts
        stop = start + len(texts)
        numbers = np.arange(start, stop, dtype=np.int64)
        skipped = tuple(SkippedRow(start + place, error) for place, error in enumerate(rows.errors) if error)
        if skipped and self.on_error == "raise":
            raise TextError(f"{skipped[0].reason} (--on-error skip or null goes on without such rows)")
        if skipped and self.on_error == "skip":
            kept = np.flatnonzero([not error for error in rows.errors])
            numbers, texts = numbers[kept], [texts[place] for place in kept]
            arrays = [array.take(_int64(kept)) for array in arrays]
        columns = None if self.plan == NO_COLUMNS else self.plan.batch(numbers, arrays)
        return RowBlock(part, start, stop, numbers, texts, columns, skipped, fraction)


def _remote(uri: str, columns: Columns) -> TextFile:
    file = TextFile.named(uri)
    if file.kind != ".parquet":
        raise UsageError(f"{uri}: behind a URI only .parquet files are read; copy the file here, or convert it")
    with opened_parquet(file, columns):
        return file


def _identity(file: TextFile, stamp: Stamp | None) -> InputIdentity:
    name = file.name.rstrip("/").rsplit("/", 1)[-1].encode("utf-8", "backslashreplace").decode()
    if not is_uri(file.name) and file.once:
        return InputIdentity(name=name, size_bytes=0, sha256="")
    size, digest = contents_sha256(file.name)
    check_unchanged(stamp, file_stamp(file.name), file.label)
    return InputIdentity(name=name, size_bytes=size, sha256=digest)


class _InputSizes:
    """The bytes of the files, to tell how much of them was read; None where a size is unknown."""

    def __init__(self, sizes: Sequence[int | None]) -> None:
        self._sizes = [] if None in sizes else [size for size in sizes if size is not None]

    def fraction(self, place: int, position: int | None) -> float | None:
        """How much was read with `position` bytes of file number `place`; None where that is unknown."""
        total = sum(self._sizes)
        return None if position is None or not total else (sum(self._sizes[:place]) + position) / total


def _int64(places: Any) -> Any:
    import pyarrow as pa

    return pa.array(places, pa.int64())
