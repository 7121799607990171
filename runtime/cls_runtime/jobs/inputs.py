"""A job's input: files, folders, globs or standard input as one sequence of rows, read from any row on."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cls_runtime.errors import TextError, UsageError
from cls_runtime.jobs.columns import NO_COLUMNS, ColumnPlan, plan_columns, with_arrays
from cls_runtime.jobs.filesystems import is_uri, opened_bytes, opened_parquet, opened_rows, parquet_files_under
from cls_runtime.jobs.rows import OnError, RowBlock, SkippedRow
from cls_runtime.reading.rows import BATCH_ROWS, Columns, Rows
from cls_runtime.reading.text_files import FORMATS, STANDARD_INPUT, TextFile, checked_files, is_named_as_texts

EDGE_BYTES = 2**16
END = 2**62


@dataclass(frozen=True, kw_only=True)
class InputIdentity:
    """What a file is recognized by: the last part of its name, its size, and the SHA-256 of its first and last 64 KiB."""

    name: str
    size_bytes: int
    edges_sha256: str


@dataclass(frozen=True)
class JobInputs:
    """The files of a job, in order. Plain data: it goes to other processes.

    Attributes:
        files: each with its format.
        columns: what is read from them.
        plan: the id and the kept columns.
        on_error: what becomes of a row that cannot be read.
    """

    files: tuple[TextFile, ...]
    columns: Columns
    plan: ColumnPlan
    on_error: OnError

    @classmethod
    def find(
        cls,
        names: Sequence[str],
        *,
        column: str = "text",
        id_column: str | None = None,
        keep: Sequence[str] = (),
        on_error: OnError = "raise",
        with_columns: bool = True,
    ) -> JobInputs:
        """Looks names up: paths, URIs of Parquet files, folders, globs, `-`. Every file is opened once, so that mistakes show now.

        Raises:
            UsageError: nothing is there, a format is unknown, or a column is missing.
            MissingExtraError: pyarrow is needed.
        """
        columns = Columns(column, tuple([] if id_column is None else [id_column]) + tuple(keep))
        expanded = [path for name in names for path in expand(name)]
        local = [name for name in expanded if not is_uri(name)]
        known = {file.name: file for file in checked_files(local, columns)}
        files = tuple(known.get(name) or _remote(name, columns) for name in expanded)
        plan = plan_columns(files, columns=columns, id_column=id_column) if with_columns else NO_COLUMNS
        return cls(files, columns, plan, on_error)

    @property
    def seekable(self) -> bool:
        """Whether the rows can be read again: standard input cannot."""
        return all(file.name != STANDARD_INPUT for file in self.files)

    def identities(self) -> tuple[InputIdentity, ...]:
        """What the files are recognized by, in order."""
        return tuple(_identity(file.name) for file in self.files)

    def row_counts(self) -> tuple[int, ...] | None:
        """Rows of each file, where all are Parquet and say so; None otherwise."""
        if any(file.kind != ".parquet" for file in self.files):
            return None
        counts = []
        for file in self.files:
            with opened_parquet(file, self.columns) as parquet:
                counts.append(parquet.rows)
        return tuple(counts)

    def between(self, row_counts: Sequence[int], start: int, stop: int) -> tuple[JobInputs, int]:
        """The files that hold the rows from `start` to `stop`, and the number of the first row in them."""
        ends = np.cumsum(row_counts)
        first = int(np.searchsorted(ends, start, side="right"))
        last = int(np.searchsorted(ends, stop, side="left"))
        return replace(self, files=self.files[first : last + 1]), int(ends[first] - row_counts[first])

    def blocks(self, ranges: Iterable[tuple[int, int]], *, first_row: int = 0) -> Iterator[RowBlock]:
        """The rows of ascending `ranges` (start, stop), in blocks that cross neither a range's nor a file's end.

        Args:
            ranges: read one at a time.
            first_row: the number of the first row in these files.

        Raises:
            TextError: a row that cannot be read, with `on_error="raise"`; a file that is damaged as a whole.
            UsageError: a file has gone.
        """
        wanted = iter(ranges)
        part = next(wanted, None)
        position = first_row
        sizes = _InputSizes(self.files)
        for place, file in enumerate(self.files):
            if part is None:
                return
            with opened_rows(file, self.columns) as reader:
                while part is not None:
                    start, stop = part
                    if position < start:
                        position += reader.skip(start - position)
                        if position < start:
                            break  # the file ends before the range begins
                    rows, arrays = with_arrays(self.plan, reader.take(min(BATCH_ROWS, stop - position)), file.label)
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


def expand(name: str) -> list[str]:
    """The files that a name stands for: itself, or those of a folder or a glob, by name.

    Raises:
        UsageError: a folder without a file to read, a glob that matches nothing.
    """
    if is_uri(name):
        return parquet_files_under(name)
    path = Path(name)
    if path.is_dir():
        files = [item for item in path.rglob("*") if _belongs(item, path)]
    elif glob.has_magic(name) and not path.exists():
        files = [Path(item) for item in glob.glob(name, recursive=True) if Path(item).is_file()]  # noqa: PTH207  any pattern, absolute too
    else:
        return [name]
    if not files:
        what = "folder holds no" if path.is_dir() else "pattern matches no"
        raise UsageError(f"{name}: the {what} {', '.join(FORMATS)} files")
    return [str(item) for item in sorted(files)]


def _belongs(path: Path, folder: Path) -> bool:
    """Files of a known format; what starts with a dot or an underscore is bookkeeping, as everywhere in the Hadoop world."""
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return not hidden and is_named_as_texts(path) and path.is_file()


def _remote(uri: str, columns: Columns) -> TextFile:
    file = TextFile.named(uri)
    if file.kind != ".parquet":
        raise UsageError(f"{uri}: behind a URI only .parquet files are read; copy the file here, or convert it")
    with opened_parquet(file, columns):
        return file


def _identity(name: str) -> InputIdentity:
    if name == STANDARD_INPUT:
        return InputIdentity(name=name, size_bytes=0, edges_sha256="")
    with opened_bytes(name) if is_uri(name) else open(name, "rb") as file:
        file.seek(0, os.SEEK_END)
        size = int(file.tell())
        file.seek(0)
        digest = hashlib.sha256(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        digest.update(file.read(EDGE_BYTES))
    return InputIdentity(name=name.rstrip("/").rsplit("/", 1)[-1], size_bytes=size, edges_sha256=digest.hexdigest())


class _InputSizes:
    """The bytes of the local files, to tell how much of them was read."""

    def __init__(self, files: Sequence[TextFile]) -> None:
        names = [file.name for file in files]
        known = all(name != STANDARD_INPUT and not is_uri(name) for name in names)
        self._sizes = [Path(name).stat().st_size for name in names] if known else []

    def fraction(self, place: int, position: int | None) -> float | None:
        """How much was read with `position` bytes of file number `place`; None where that is unknown."""
        total = sum(self._sizes)
        return None if position is None or not total else (sum(self._sizes[:place]) + position) / total


def _int64(places: Any) -> Any:
    import pyarrow as pa

    return pa.array(places, pa.int64())
