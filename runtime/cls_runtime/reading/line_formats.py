"""Records of `.txt`, `.jsonl` and `.csv` files, one at a time, in order: a text, further columns, or why the record cannot be read.

A record that cannot be read does not end the file: the caller decides (`Record.error`). What cannot be told apart into records does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, Protocol

from cls_runtime.errors import TextError, UsageError
from cls_runtime.reading.changes import Stamp, stamp_of
from cls_runtime.reading.csv_rows import CsvRows
from cls_runtime.reading.lines import Lines, decoded
from cls_runtime.reading.rows import BLOCK_BYTES, Columns, Record, Rows, listed


class LineRows:
    """The records of an open file, from the first on; a `RowReader`.

    Args:
        file: an open binary file, UTF-8 with or without a byte order mark.
        name: what errors call it.
        kind: `.txt`, `.jsonl` or `.csv`.
        columns: what is wanted; `.txt` has a text and nothing else.
        on_disk: the open file that `file` decompresses, or itself; None for standard input.
    """

    def __init__(self, file: BinaryIO, name: str, kind: str, columns: Columns, on_disk: BinaryIO | None = None) -> None:
        self._on_disk = on_disk
        self._lines = Lines(file, name)
        formats: dict[str, type[_Format]] = {".txt": _Txt, ".jsonl": _Jsonl, ".csv": _Csv}
        self._records = formats[kind](self._lines, name, columns)

    def skip(self, count: int) -> int:
        """Passes over `count` records without reading what is in them; how many there were."""
        return sum(1 for _ in islice(self._records.raw, count))

    def take(self, count: int) -> Rows:
        """The next `count` records, or those that bring it to `BLOCK_BYTES` bytes; fewer at the end of the file.

        Raises:
            TextError: what follows cannot be told apart into records, or its compression is damaged.
        """
        records = []
        start = self._lines.taken_bytes
        for record in islice(self._records, count):
            records.append(record)
            if self._lines.taken_bytes - start >= BLOCK_BYTES:
                break
        return Rows.of_records(records)

    def position(self) -> int | None:
        """How many bytes of the file on the disk were read, compressed ones of a compressed file; None where that is unknown."""
        try:
            return None if self._on_disk is None else int(self._on_disk.tell())
        except (OSError, ValueError):
            return None

    def stamp(self) -> Stamp | None:
        """What the open file has now."""
        return stamp_of(self._on_disk)


class _Format(Protocol):
    """An iterator over records, and `raw`: the same ones before anybody looks into them."""

    raw: Iterator[Any]

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None: ...

    def __iter__(self) -> Iterator[Record]: ...

    def __next__(self) -> Record: ...


class _Txt:
    """A line is a text, an empty line an empty text; only the line's end (LF or CRLF) is taken off."""

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None:
        self.raw: Iterator[Any] = lines
        self._name = name
        self._others = len(columns.others)  # they can only be the text once more

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        number, line = next(self.raw)
        text, error = decoded(line, f"{self._name} line {number}")
        if text.endswith("\n"):
            text = text.removesuffix("\n").removesuffix("\r")
        return Record(number, None, error=error) if error else Record(number, text, (text,) * self._others)


class _Jsonl:
    """A line is an object, or a string that is the text. Blank lines are not records."""

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None:
        self.raw: Iterator[tuple[int, bytes | None]] = ((number, line) for number, line in lines if line is None or line.strip())
        self._name = name
        self._columns = columns
        # A name in quotes more than once, or letters in escapes: then a field may be there twice.
        self._quoted = [json.dumps(column, ensure_ascii=False) for column in (columns.text, *columns.others)]

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        number, line = next(self.raw)
        where = f"{self._name} line {number}"
        text, error = decoded(line, where)
        if error:
            return Record(number, None, error=error)
        try:
            if "\\u00" in text or any(text.count(name) > 1 for name in self._quoted):
                return self._record(number, json.loads(text, object_pairs_hook=_Once), where)
            return self._record(number, json.loads(text), where)
        except TextError as reason:
            return Record(number, None, error=str(reason))
        except (ValueError, RecursionError) as reason:
            return Record(number, None, error=f"{where} is not JSON ({reason})")

    def _record(self, number: int, value: Any, where: str) -> Record:
        column = self._columns.text
        if isinstance(value, str):
            value = {column: value}
        if not isinstance(value, dict):
            raise TextError(f"{where} is a JSON {_json_kind(value)}, expected an object with {column!r}, or a string")
        if column not in value:
            raise TextError(f"{where} has no {column!r}, only {listed(list(value))}; choose one with --column")
        for name in (column, *self._columns.others):
            if isinstance(value, _Once) and name in value.twice:
                raise TextError(f"{where} has {name!r} twice")
        text = value[column]
        others = tuple(value.get(name) for name in self._columns.others)
        error = _no_text(text, column, where)
        return Record(number, None if error else text, others, error, tuple(value))


class _Csv:
    """Comma-separated with a header. Blank lines are not records."""

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None:
        rows = CsvRows(lines, name)
        header = next(rows, None)
        self._places, self._width = _csv_places(header, columns, name)
        rows.width = self._width
        self.raw: Iterator[Any] = rows
        self._name = name

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        line, row, error = next(self.raw)
        where = f"{self._name} line {line}"
        if error:
            return Record(line, None, error=error)
        if len(row) != self._width:
            wrong = f"has {len(row)} fields, the header has {self._width}; put a field that contains a comma in double quotes"
            return Record(line, None, error=f"{where} {wrong}")
        text, *others = (row[place] for place in self._places)
        for field in (text, *others):
            if bad := next((letter for letter in field if "\udc80" <= letter <= "\udcff"), None):
                return Record(line, None, error=f"{where} is not UTF-8 (byte 0x{ord(bad) - 0xDC00:02x}); convert the file to UTF-8")
        return Record(line, text, tuple(others))


def csv_header(file: BinaryIO, name: str, columns: Columns) -> None:
    """Looks whether a CSV file's header has the columns.

    Raises:
        UsageError: one is missing or there twice, or the file is empty.
        TextError: it is not UTF-8 at all.
    """
    _csv_places(next(CsvRows(Lines(file, name), name), None), columns, name)


def _csv_places(header: tuple[int, list[str], str] | None, columns: Columns, name: str) -> tuple[list[int], int]:
    """Where the columns are in a row, the text's first, and how many fields a row has."""
    if header is None:
        raise UsageError(f"{name} is empty, expected a header line with {columns.text!r}")
    _, names, error = header
    if error:
        raise UsageError(error)
    for column in (columns.text, *columns.others):
        if names.count(column) != 1:
            many = "no column" if column not in names else "more than one column"
            hint = "; choose one with --column" if column == columns.text else ""
            raise UsageError(f"{name} has {many} {column!r}; its columns are {listed(names)}{hint}")
    return [names.index(column) for column in (columns.text, *columns.others)], len(names)


def _no_text(value: Any, column: str, where: str) -> str:
    """Why a JSON value is no text; empty if it is one. JSON can spell a lone surrogate, which no tokenizer takes."""
    if not isinstance(value, str):
        return f"{where}: {column!r} is a JSON {_json_kind(value)}, expected a string"
    if value.isascii():
        return ""
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        surrogate = f"a lone surrogate U+{ord(value[error.start]):04X} at character {error.start}"
        return f"{where} has {surrogate}, which is no Unicode character"
    return ""


def _json_kind(value: Any) -> str:
    kinds = {bool: "boolean", type(None): "null", int: "number", float: "number", list: "array", str: "string"}
    return kinds.get(type(value), "object")


class _Once(dict[str, Any]):
    """A JSON object, and the names that it has more than once."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        counts = Counter(name for name, _ in pairs) if len(self) < len(pairs) else Counter()
        self.twice = {name for name, count in counts.items() if count > 1}
