"""Reads texts from `.txt`, `.jsonl`, `.csv`, `.parquet` or standard input, one at a time, in order.

    for text in read_texts(["corpus.txt", "more.jsonl.gz"]): ...

Nothing is dropped or repaired: a text that cannot be read is an error that names the file and the line, because row i of the vectors
belongs to text i of the input.
"""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import stat
import sys
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from cls_runtime.errors import TextError, UsageError
from cls_runtime.reading.changes import check_unchanged
from cls_runtime.reading.csv_header import check_header
from cls_runtime.reading.line_formats import LineRows
from cls_runtime.reading.parquet_files import ParquetRows, require_pyarrow
from cls_runtime.reading.rows import BATCH_ROWS, Columns, RowReader

STANDARD_INPUT = "-"
FORMATS = (".txt", ".jsonl", ".csv", ".parquet")
COMPRESSIONS = (".gz", ".zst")


@dataclass(frozen=True)
class TextFile:
    """A file's name, read: `kind` is one of `FORMATS`, `compression` one of `COMPRESSIONS` or empty."""

    name: str
    kind: str
    compression: str = ""

    @classmethod
    def named(cls, name: str) -> TextFile:
        """What the name says; standard input is read like `.txt`.

        Raises:
            UsageError: another format.
        """
        if name == STANDARD_INPUT:
            return cls(name, ".txt")
        known = _format_of(name)
        if known is None:
            raise UsageError(
                f"{name}: texts are read from {', '.join(FORMATS)} files, the first three also as {' or '.join(COMPRESSIONS)}, "
                "or from - (standard input)"
            )
        return cls(name, *known)

    @property
    def label(self) -> str:
        """What errors call it."""
        return "standard input" if self.name == STANDARD_INPUT else self.name

    def check(self, columns: Columns) -> None:
        """Looks at the file now, so that a misspelt name does not end a job after an hour.

        Raises:
            UsageError: it is missing or unreadable, or a column is not there.
            MissingExtraError: it needs pyarrow.
        """
        if self.name == STANDARD_INPUT:
            _check_standard_input()
            return
        mode = _checked_mode(Path(self.name))
        if stat.S_ISFIFO(mode) and self.kind == ".parquet":
            raise UsageError(f"{self.name} is a named pipe, which a Parquet file cannot be read from; write it to a disk")
        # A header is checked now only where reading it does not use it up: a named pipe gives its bytes once, and opening one waits.
        if stat.S_ISREG(mode):
            if self.kind == ".parquet":
                with self.parquet(columns):
                    return
            with _damage_named(self.name), self._opened() as (file, _):
                if self.kind == ".csv":
                    check_header(file, self.name, columns)

    @property
    def once(self) -> bool:
        """Whether it can be read only once: standard input, or a named pipe."""
        return self.name == STANDARD_INPUT or stat.S_ISFIFO(_checked_mode(Path(self.name)))

    @contextlib.contextmanager
    def _opened(self) -> Iterator[tuple[BinaryIO, BinaryIO | None]]:
        """The file's bytes, uncompressed; and the open file on the disk, None for standard input.

        Raises:
            MissingExtraError: zstd without pyarrow.
            UsageError: standard input is closed.
        """
        if self.name == STANDARD_INPUT:
            yield _check_standard_input(), None
            return
        # Opened here and not by Arrow, which takes no name that is not UTF-8.
        with open(self.name, "rb") as file:
            if self.compression == ".gz":
                with gzip.GzipFile(fileobj=file, mode="rb") as unzipped:
                    yield cast("BinaryIO", unzipped), file
            elif self.compression == ".zst":
                pa = require_pyarrow(f"{self.name}: zstd files")
                with pa.input_stream(file, compression="zstd") as packed, io.BufferedReader(packed) as unpacked:
                    yield cast("BinaryIO", unpacked), file
            else:
                yield file, file

    @contextlib.contextmanager
    def rows(self, columns: Columns) -> Iterator[RowReader]:
        """The rows of the file, whatever its format.

        Raises:
            UsageError: it cannot be read, or has other columns.
            TextError: it is damaged as a whole.
            MissingExtraError: it needs pyarrow.
        """
        if self.kind == ".parquet":
            with self.parquet(columns) as parquet:
                yield parquet
            return
        with _damage_named(self.label), self._opened() as (file, on_disk):
            yield LineRows(file, self.label, self.kind, columns, on_disk)

    @contextlib.contextmanager
    def parquet(self, columns: Columns) -> Iterator[ParquetRows]:
        """The same of a Parquet file, which also says how many rows it has and of which types.

        Raises:
            UsageError, TextError, MissingExtraError: as `rows`.
        """
        with (
            _damage_named(self.label),
            open(self.name, "rb") as file,
            contextlib.closing(ParquetRows(file, self.label, columns, on_disk=file)) as parquet,
        ):
            yield parquet


def read_texts(inputs: Sequence[str | Path], *, column: str = "text", delimiter: str = ",") -> Iterator[str]:
    """The texts of all `inputs`, one after the other.

    - `.txt`: a line is a text, an empty line an empty text; only the line's end (LF or CRLF) is taken off.
    - `.jsonl`: a line is an object with the text under `column`, or a bare string. Blank lines are not records.
    - `.csv`: separated by `delimiter`, with a header; the text is under `column`.
    - these three also with `.gz` (gzip) or `.zst` (zstd, which needs the extra `jobs`) behind the name.
    - `.parquet`: the text is under `column`; needs the extra `jobs`.
    - `-`: standard input, read like `.txt`.

    Text files are UTF-8, with or without a byte order mark. Every file is looked at before the first text is given out, so that a misspelt
    last name does not end a job after an hour.

    Args:
        inputs: paths, or `-` at most once.
        column: the column's name in `.jsonl`, `.csv` and `.parquet`; of the first and the last a dot reaches into an object or a struct.
        delimiter: what separates the fields of `.csv`, one character.

    Raises:
        UsageError: a file is missing, unreadable, or of another format; a column is not there. Raised by the call itself.
        MissingExtraError: `.parquet` or `.zst` without pyarrow. Raised by the call itself.
        TextError: a line that cannot be read, while iterating.
    """
    if isinstance(inputs, (str, Path)):
        raise TypeError(f"inputs is a {type(inputs).__name__}, expected a list of paths")
    columns = Columns(column, delimiter=delimiter)
    files = checked_files([str(name) for name in inputs], columns)
    return (text for file in files for text in _texts(file, columns))


def is_named_as_texts(path: Path) -> bool:
    """Whether the name says that texts are read from such a file."""
    return _format_of(path.name) is not None


def checked_files(names: Sequence[str], columns: Columns) -> list[TextFile]:
    """The files of these names, each looked at.

    Raises:
        UsageError, MissingExtraError: as `TextFile.named` and `TextFile.check`; or standard input is given twice.
    """
    if names.count(STANDARD_INPUT) > 1:
        raise UsageError("- (standard input) is given twice; it can be read only once")
    files = []
    for name in names:
        files.append(TextFile.named(name))
        files[-1].check(columns)
    return files


def _format_of(name: str) -> tuple[str, str] | None:
    """The format and the compression (may be empty) that a name ends in; None for any other name."""
    suffixes = [suffix.lower() for suffix in Path(name).suffixes[-2:]]
    compression = suffixes.pop() if suffixes and suffixes[-1] in COMPRESSIONS else ""
    kind = suffixes[-1] if suffixes else ""
    return None if kind not in FORMATS or (compression and kind == ".parquet") else (kind, compression)


def _texts(file: TextFile, columns: Columns) -> Iterator[str]:
    with file.rows(columns) as reader:
        opened = reader.stamp()
        while (rows := reader.take(BATCH_ROWS)).texts:
            check_unchanged(opened, reader.stamp(), file.label)
            for text, error in zip(rows.texts, rows.errors, strict=True):
                if not isinstance(text, str):  # `columns` takes no pairs
                    raise TextError(error)
                yield text


@contextlib.contextmanager
def _damage_named(name: str) -> Iterator[None]:
    """The input's name in what the system and the decompressor report."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise TextError(f"{name} is damaged ({error}); restore the file") from None
    except OSError as error:
        if error.errno is None:  # Arrow's decompressor
            raise TextError(f"{name} is damaged ({error}); restore the file") from None
        # The system's own words: Arrow's repeat the file's name.
        raise UsageError(f"{name} cannot be read ({os.strerror(error.errno)})") from None


def _checked_mode(path: Path) -> int:
    """The mode of a file that texts can be read from.

    Raises:
        UsageError: it is missing, unreadable, a folder, or a device or a socket, which may have no end.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({getattr(error, 'strerror', error)})"
        raise UsageError(f"{path} {reason}") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder, expected a file of texts")
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        raise UsageError(f"{path} is a device or a socket, expected a file of texts")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read (permission denied)")
    return mode


def _check_standard_input() -> BinaryIO:
    """Standard input, open and waiting for what comes.

    Raises:
        UsageError: it was closed, or does not wait: what comes late would be taken for the end.
    """
    if sys.stdin is None or getattr(sys.stdin, "closed", False):
        raise UsageError("standard input is closed; give a file, or something on standard input")
    buffer = sys.stdin.buffer
    waits = True
    with contextlib.suppress(OSError, ValueError, AttributeError):  # a program may have put something else there; Windows has no such mode
        waits = os.get_blocking(buffer.fileno())
    if not waits:
        raise UsageError("standard input is set not to wait for its writer (O_NONBLOCK); pass it through cat")
    return buffer
