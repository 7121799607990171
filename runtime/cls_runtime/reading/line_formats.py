"""Records of `.txt`, `.jsonl` and `.csv` files, one at a time, in order: a text, further columns, or why the record cannot be read.

A record that cannot be read does not end the file: the caller decides (`Record.error`). What cannot be told apart into records does.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from typing import Any, BinaryIO, Protocol

from cls_runtime.errors import TextError
from cls_runtime.reading.changes import Stamp, stamp_of
from cls_runtime.reading.csv_header import bad_byte, read_header
from cls_runtime.reading.csv_rows import CsvRows
from cls_runtime.reading.lines import Lines, decoded, not_utf8
from cls_runtime.reading.nested_names import parts, ways
from cls_runtime.reading.rows import BLOCK_BYTES, Columns, Record, Rows, listed

_ABSENT = object()
_DELIMITER_WORDS = {",": "a comma", ";": "a semicolon", "\t": "a tab"}


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
    """A line is an object, or a string (a pair of them) that is the text. Blank lines are not records."""

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None:
        self.raw: Iterator[tuple[int, bytes | None]] = ((number, line) for number, line in lines if line is None or line.strip())
        self._name = name
        self._columns = columns
        # A name in quotes more than once, or letters in escapes: then a field may be there twice.
        names = {part for column in (columns.text, *columns.others) for part in parts(column)}
        self._quoted = [json.dumps(part, ensure_ascii=False) for part in names]
        self._called = repr(columns.text)
        self._nested = tuple(name for name in columns.others if "." in name)

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
        if isinstance(value, str) or (self._columns.pairs and isinstance(value, list)):
            value = {column: value}
        if not isinstance(value, dict):
            raise TextError(f"{where} is a JSON {_json_kind(value)}, expected an object with {column!r}, or {self._columns.expected}")
        text = _field(value, column, where)
        if text is _ABSENT:
            raise TextError(f"{where} has no {column!r}, only {listed(_names(value))}; choose one with --column")
        others = tuple([_field(value, name, where) for name in self._columns.others])
        fields = tuple(value)
        if self._nested:
            fields += tuple(name for name, other in zip(self._columns.others, others, strict=True) if other is not _ABSENT)
        if _ABSENT in others:
            others = tuple(None if other is _ABSENT else other for other in others)
        if isinstance(text, list) and self._columns.pairs:
            error = _no_pair(text, column, where)
            text = tuple(text)
        else:
            error = _no_text(text, self._called, where, self._columns.expected)
        return Record(number, None if error else text, others, error, fields)


class _Csv:
    """Separated by commas, or another delimiter, with a header. Blank lines are not records."""

    def __init__(self, lines: Lines, name: str, columns: Columns) -> None:
        rows = CsvRows(lines, name, columns.delimiter)
        self._places = read_header(rows, columns, name)
        self._width = rows.width
        self.raw: Iterator[Any] = rows
        self._name = name
        self._columns = columns

    def __iter__(self) -> Iterator[Record]:
        return self

    def __next__(self) -> Record:
        line, row, error = next(self.raw)
        where = f"{self._name} line {line}"
        if error:
            return Record(line, None, error=error)
        if len(row) != self._width:
            quoted = f"put a field that contains {_DELIMITER_WORDS.get(self._columns.delimiter, 'the delimiter')} in double quotes"
            return Record(line, None, error=f"{where} has {len(row)} fields, the header has {self._width}; {quoted}")
        fields = [row[place] for place in self._places]
        for place, field in enumerate(fields):
            if bad := bad_byte(field):
                name = (self._columns.text, *self._columns.others)[place]
                return Record(line, None, error=not_utf8(where, bad[0], f"place {bad[1]} of {name!r}"))
        return Record(line, fields[0], tuple(fields[1:]))


def _field(value: dict[str, Any], name: str, where: str) -> Any:
    """The field `name` of a JSON object, or of one within it; `_ABSENT` where there is none.

    Raises:
        TextError: it is there twice.
    """
    if type(value) is dict and (name in value or "." not in name):
        return value.get(name, _ABSENT)
    for outer, inner in ways(name):
        if outer not in value:
            continue
        if isinstance(value, _Once) and outer in value.twice:
            raise TextError(f"{where} has {outer!r} twice")
        if inner is None:
            return value[outer]
        if isinstance(value[outer], dict) and (found := _field(value[outer], inner, where)) is not _ABSENT:
            return found
    return _ABSENT


def _names(value: dict[str, Any]) -> list[str]:
    """The names of an object's fields; of a field that is an object, those of its own fields."""
    return [
        f"{name}.{inner}" if inner else name
        for name, child in value.items()
        for inner in (child if isinstance(child, dict) and child else {"": None})
    ]


def _no_pair(values: list[Any], column: str, where: str) -> str:
    """Why a JSON array is no pair of texts; empty if it is one."""
    if len(values) != 2:
        return f"{where}: {column!r} is a JSON array of {len(values)}, expected a string or a pair of strings"
    first, second = values
    return _no_text(first, f"{column!r} [0]", where, "a string") or _no_text(second, f"{column!r} [1]", where, "a string")


def _no_text(value: Any, what: str, where: str, expected: str) -> str:
    """Why a JSON value is no text; empty if it is one. JSON can spell a lone surrogate, which no tokenizer takes."""
    if not isinstance(value, str):
        return f"{where}: {what} is a JSON {_json_kind(value)}, expected {expected}"
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
