"""Texts and pairs of texts in Arrow's columns, whatever type they are stored in."""

from __future__ import annotations

from typing import Any

from cls_runtime.reading.lines import MAX_LINE_BYTES, decoded
from cls_runtime.reading.rows import RowText

_STRINGS = ("string", "large_string", "string_view")
_LISTS = ("list", "large_list", "fixed_size_list")  # and list_view, large_list_view
_ADVICE = "write the file again with strings in UTF-8"
_SHORT_CHARACTERS = MAX_LINE_BYTES // 4  # of so few the bytes need not be counted


def is_dictionary(kind: Any) -> bool:
    """Whether a type stores each value once."""
    return str(kind).startswith("dictionary")


def is_strings(kind: Any) -> bool:
    """Whether a column of this type holds strings, in a dictionary or not."""
    return str(kind.value_type if is_dictionary(kind) else kind) in _STRINGS


def is_pairs(kind: Any) -> bool:
    """Whether a column of this type holds lists of strings that may have two."""
    return str(kind).startswith(_LISTS) and is_strings(kind.value_type) and getattr(kind, "list_size", 2) == 2


def texts_of(column: Any, name: str, where: str, first: int, *, expected: str) -> tuple[list[RowText | None], list[str]]:
    """The texts of an array of strings or of lists of them, [n], and why there is none where there is None.

    Args:
        column: the array; no dictionary.
        name: of the column, for errors.
        where: the file, for errors.
        first: the number of the first row. Rows count from 1, as lines do.
        expected: what a text may be, for errors.
    """
    texts: list[RowText | None]
    try:
        texts = column.to_pylist()
        if is_pairs(column.type):
            texts = [_short_pair(value) for value in texts]
            errors = ["" if text is not None else None for text in texts]
        else:
            errors = ["" if text is not None and len(text) <= _SHORT_CHARACTERS else None for text in texts]
    except UnicodeDecodeError:
        texts, errors = [None] * len(column), [None] * len(column)
    for place, known in enumerate(errors):
        if known is None:
            texts[place], errors[place] = _looked_at(column[place], f"{where} row {first + place}: {name!r}", expected)
    return texts, [error or "" for error in errors]


def _short_pair(value: Any) -> tuple[str, str] | None:
    """The pair that a list is; None where it is none, or must be looked at."""
    if value is None or len(value) != 2:
        return None
    first, second = value
    is_pair = first is not None and second is not None and max(len(first), len(second)) <= _SHORT_CHARACTERS
    return (first, second) if is_pair else None


def _looked_at(value: Any, what: str, expected: str) -> tuple[RowText | None, str]:
    """A text, or why it is none."""
    if not value.is_valid:
        return None, f"{what} is null, expected {expected}"
    if not is_pairs(value.type):
        return _decoded(value, what)
    if len(value.values) != 2:
        return None, f"{what} is a list of {len(value.values)}, expected two strings, a pair"
    parts = []
    for place, item in enumerate(value.values):
        if not item.is_valid:
            return None, f"{what} [{place}] is null, expected a string"
        text, error = _decoded(item, f"{what} [{place}]")
        if text is None:
            return None, error
        parts.append(text)
    return (parts[0], parts[1]), ""


def _decoded(value: Any, what: str) -> tuple[str | None, str]:
    """A string that may not be UTF-8."""
    data = (value.value if is_dictionary(value.type) else value).as_buffer().to_pybytes()
    text, error = decoded(data if len(data) <= MAX_LINE_BYTES else None, what, advice=_ADVICE)
    return (None, error) if error else (text, "")
