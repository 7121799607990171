"""Reads texts from `.txt`, `.jsonl`, `.csv`, `.parquet` or standard input, one at a time, in order.

    for text in read_texts(["corpus.txt", "more.jsonl"]): ...

Nothing is dropped or repaired: a text that cannot be read is an error that names the file and the line, because row i of the vectors
belongs to text i of the input.
"""

from __future__ import annotations

import csv
import json
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cls_runtime.errors import MissingExtraError, TextError, UsageError

STANDARD_INPUT = "-"
MAX_LINE_BYTES = 64 * 2**20
_PARQUET_BATCH_ROWS = 1024
_UTF8_BOM = b"\xef\xbb\xbf"


def read_texts(inputs: Sequence[str | Path], *, column: str = "text") -> Iterator[str]:
    """The texts of all `inputs`, one after the other.

    - `.txt`: a line is a text, an empty line an empty text; only the line's end (LF or CRLF) is taken off.
    - `.jsonl`: a line is an object with the text under `column`, or a bare string. Blank lines are not records.
    - `.csv`: comma-separated with a header; the text is under `column`.
    - `.parquet`: the text is under `column`; needs the extra `jobs`.
    - `-`: standard input, read like `.txt`.

    Text files are UTF-8, with or without a byte order mark. Every file is looked at before the first text is given out, so that a misspelt
    last name does not end a job after an hour.

    Args:
        inputs: paths, or `-` at most once.
        column: the column's name in `.jsonl`, `.csv` and `.parquet`.

    Raises:
        UsageError: a file is missing, unreadable, or of another format; a column is not there. Raised by the call itself.
        MissingExtraError: `.parquet` without pyarrow. Raised by the call itself.
        TextError: a line that cannot be read, while iterating.
    """
    if isinstance(inputs, (str, Path)):
        raise TypeError(f"inputs is a {type(inputs).__name__}, expected a list of paths")
    names = [str(name) for name in inputs]
    if names.count(STANDARD_INPUT) > 1:
        raise UsageError("- (standard input) is given twice; it can be read only once")
    readers = [(name, _reader(name, column)) for name in names]
    return _chain(readers)


def _chain(readers: list[tuple[str, Callable[[], Iterator[str]]]]) -> Iterator[str]:
    for name, texts in readers:
        yield from _naming(name, texts)


def _naming(name: str, texts: Callable[[], Iterator[str]]) -> Iterator[str]:
    """`texts()`, with the input's name in what the system reports while it is read."""
    try:
        yield from texts()
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({error.strerror or error})") from None


def _reader(name: str, column: str) -> Callable[[], Iterator[str]]:
    """Looks at one input now; gives the function that reads it later."""
    if name == STANDARD_INPUT:
        return lambda: _text_lines(sys.stdin.buffer, "standard input")
    path = Path(name)
    formats: dict[str, Callable[[Path, str], Iterator[str]]] = {
        ".txt": lambda path, _: _txt(path),
        ".jsonl": _jsonl,
        ".csv": _csv,
        ".parquet": _parquet,
    }
    read = formats.get(path.suffix.lower())
    if read is None:
        raise UsageError(f"{name}: texts are read from {', '.join(formats)} files, or from - (standard input)")
    _check_readable(path)
    # A header is checked now only where reading it does not use it up: a named pipe gives its bytes once.
    if stat.S_ISREG(path.stat().st_mode):
        if path.suffix.lower() == ".csv":
            _csv_header(path, column)
        if path.suffix.lower() == ".parquet":
            _open_parquet(path, column).close()
    return lambda: read(path, column)


def _check_readable(path: Path) -> None:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        reason = "does not exist" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        raise UsageError(f"{path} {reason}") from None
    if stat.S_ISDIR(mode):
        raise UsageError(f"{path} is a folder, expected a file of texts")
    if not os.access(path, os.R_OK):
        raise UsageError(f"{path} cannot be read (permission denied)")


def _lines(file: BinaryIO, name: str) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends. Only LF ends a line: a text may contain any other separator."""
    number = 0
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise TextError(f"{name} line {number} is longer than {MAX_LINE_BYTES:,} bytes; is it a text file?")
        if number == 1:
            line = line.removeprefix(_UTF8_BOM)
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError as error:
            bad = f"byte 0x{line[error.start]:02x} at place {error.start + 1}"
            raise TextError(f"{name} line {number} is not UTF-8 ({bad}); convert the file to UTF-8") from None


def _text_lines(file: BinaryIO, name: str) -> Iterator[str]:
    for line in _lines(file, name):
        yield line.removesuffix("\n").removesuffix("\r") if line.endswith("\n") else line


def _txt(path: Path) -> Iterator[str]:
    with path.open("rb") as file:
        yield from _text_lines(file, str(path))


def _jsonl(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as file:
        for number, line in enumerate(_lines(file, str(path)), start=1):
            if line.strip():
                yield _json_text(line, column, f"{path} line {number}")


def _json_text(line: str, column: str, where: str) -> str:
    try:
        record: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise TextError(f"{where} is not JSON ({error})") from None
    if isinstance(record, str):
        return record
    if not isinstance(record, dict):
        raise TextError(f"{where} is a JSON {_json_kind(record)}, expected an object with {column!r}, or a string")
    if column not in record:
        raise TextError(f"{where} has no {column!r}, only {_names(list(record))}; choose one with --column")
    if not isinstance(record[column], str):
        raise TextError(f"{where}: {column!r} is a JSON {_json_kind(record[column])}, expected a string")
    text: str = record[column]
    return text


def _json_kind(value: Any) -> str:
    kinds = {bool: "boolean", type(None): "null", int: "number", float: "number", list: "array", dict: "object", str: "string"}
    return kinds[type(value)]


def _csv(path: Path, column: str) -> Iterator[str]:
    with path.open("rb") as file:
        rows = _csv_rows(file, path)
        place, width = _csv_place(next(rows, None), column, path)
        for line, row in rows:
            if len(row) != width:
                raise TextError(
                    f"{path} line {line} has {len(row)} fields, the header has {width}; put a field that contains a comma in double quotes"
                )
            yield row[place]


def _csv_rows(file: BinaryIO, path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows with the number of their last line. Blank lines are not rows; strict, or a lost quote would swallow the rest of the file."""
    reader = csv.reader(_lines(file, str(path)), strict=True)
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        hint = "; use .jsonl for texts this long" if "limit" in str(error) else ""
        raise TextError(f"{path} line {reader.line_num} is not CSV ({error}){hint}") from None


def _csv_header(path: Path, column: str) -> None:
    with path.open("rb") as file:
        _csv_place(next(_csv_rows(file, path), None), column, path)


def _csv_place(header: tuple[int, list[str]] | None, column: str, path: Path) -> tuple[int, int]:
    """Where `column` is in a row, and how many fields a row has."""
    if header is None:
        raise UsageError(f"{path} is empty, expected a header line with {column!r}")
    names = header[1]
    if names.count(column) != 1:
        found = "no column" if column not in names else "more than one column"
        raise UsageError(f"{path} has {found} {column!r}; its columns are {_names(names)}; choose one with --column")
    return names.index(column), len(names)


def _open_parquet(path: Path, column: str) -> Any:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError(f"{path}: Parquet files need pyarrow: pip install 'cls-export[jobs]'") from None
    try:
        file = parquet.ParquetFile(path)
    except (pa.ArrowException, ValueError) as error:
        raise UsageError(f"{path} is not a Parquet file ({' '.join(str(error).split())})") from None
    names = file.schema_arrow.names
    if names.count(column) != 1:
        file.close()
        raise UsageError(f"{path} has no column {column!r}; its columns are {_names(names)}; choose one with --column")
    kind = file.schema_arrow.field(column).type
    kind = getattr(kind, "value_type", kind)  # a dictionary column counts as the strings in it
    if str(kind) not in ("string", "large_string", "string_view"):
        file.close()
        raise UsageError(f"{path}: column {column!r} is {kind}, expected string")
    return file


def _parquet(path: Path, column: str) -> Iterator[str]:
    with _open_parquet(path, column) as file:
        row = 0
        for batch in file.iter_batches(batch_size=_PARQUET_BATCH_ROWS, columns=[column]):
            for text in batch.column(0).to_pylist():
                row += 1
                if text is None:
                    raise TextError(f"{path} row {row}: {column!r} is null, expected a string")
                yield text


def _names(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:20])
    return f"{shown} and {len(names) - 20} more" if len(names) > 20 else shown or "none"
