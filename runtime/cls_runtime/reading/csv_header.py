"""The header of a CSV file: where the wanted columns are in a row, or what is the matter with it."""

from __future__ import annotations

from typing import BinaryIO

from cls_runtime.errors import UsageError
from cls_runtime.reading.csv_rows import CsvRows, loose_fields
from cls_runtime.reading.lines import Lines, not_utf8
from cls_runtime.reading.rows import Columns, listed, shortened

_DELIMITERS = {";": "semicolons (--delimiter ';')", "\t": "tabs (--delimiter '\\t')", "|": "bars (--delimiter '|')", ",": "commas"}


def check_header(file: BinaryIO, name: str, columns: Columns) -> None:
    """Looks whether an open CSV file's header has the columns.

    Raises:
        UsageError, TextError: as `read_header`.
    """
    read_header(CsvRows(Lines(file, name), name, columns.delimiter), columns, name)


def read_header(rows: CsvRows, columns: Columns, name: str) -> list[int]:
    """Takes the header off the rows, and sets their width; gives where the columns are in a row, the text's first.

    Raises:
        UsageError: a column is missing or there twice, or the file is empty.
        TextError: it is UTF-16 or UTF-32.
    """
    header = next(rows, None)
    if header is None:
        raise UsageError(f"{name} is empty, expected a header line with {columns.text!r}")
    _, names, error = header
    if error:
        raise UsageError(f"{error}{_delimiter_hint(rows.first_line, columns, 0)}")
    for column in (columns.text, *columns.others):
        if names.count(column) != 1:
            raise UsageError(_objection(rows, names, column, columns, name))
    rows.width = len(names)
    return [names.index(column) for column in (columns.text, *columns.others)]


def _objection(rows: CsvRows, names: list[str], column: str, columns: Columns, name: str) -> str:
    if column in names:
        return f"{name} has more than one column {column!r}; its columns are {listed(names)}; rename one of them"
    for heading in names:
        if bad := bad_byte(heading):
            return not_utf8(f"{name} has no column {column!r}, and its header", bad[0], f"place {bad[1]} of {shortened(heading)}")
    if names[0].lower().startswith("sep="):
        return f"{name} begins with a spreadsheet's line {shortened(rows.first_line.strip())}, expected the header; remove that line"
    hint = _delimiter_hint(rows.first_line, columns, len(names))
    if not hint and column == columns.text:
        hint = "; choose one with --column"
    return f"{name} has no column {column!r}; its columns are {listed(names)}{hint}"


def bad_byte(field: str) -> tuple[int, int] | None:
    """The first byte of a field that was not UTF-8, and its place, from 1; None where there is none."""
    if field.isascii():
        return None
    try:
        field.encode("utf-8")
    except UnicodeEncodeError as error:  # at a lone surrogate, which stands for the byte
        return ord(field[error.start]) - 0xDC00, error.start + 1
    return None


def _delimiter_hint(line: str, columns: Columns, width: int) -> str:
    """The advice where the header has the text's column, or not just one, if something else separates its fields."""
    for delimiter, words in _DELIMITERS.items():
        if delimiter != columns.delimiter:
            names = loose_fields(line.strip("\r\n"), delimiter)
            if columns.text in names or width <= 1 < len(names):
                return f"; it seems to be separated by {words}"
    return ""
