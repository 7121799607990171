"""What may be given as texts: an iterable of them, and not one that iterates over what nobody means."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from cls_runtime.encoding.texts import Text
from cls_runtime.errors import TextError

_EXPECTED = "expected a list or another ordered iterable of str or of pairs (str, str)"
_ARROW_ROWS = 4096  # of an Arrow array become Python's at a time
# How the types of columns of strings begin, as pandas, polars and Arrow call them.
_STRING_TYPES = ("object", "str", "large_str", "categor", "dictionary")
# Each iterates over the characters of a str; ASCII has an iterator of its own.
_CHARACTERS = (type(iter("")), type(iter("\u00e9")))


def iterable_of_texts(texts: Iterable[Text]) -> Iterable[Text]:
    """`texts`, unless its kind says that it iterates over something else. It is judged by what it can do: no package is imported.

    Of an Arrow array, whose items are Arrow's own, these are what they hold; a string in it that is not UTF-8 is a TextError.

    Raises:
        TypeError: a str, bytes or a buffer of characters, a mapping, a set, a data frame or a table (column names), an open file (lines
            with their ends), an array without a dimension, or no iterable at all.
    """
    kind = type(texts)
    advice = _advice(texts, kind)
    if advice is None and isinstance(texts, Iterable):
        return _arrow_texts(texts) if hasattr(kind, "to_pylist") and hasattr(kind, "slice") else texts
    raise TypeError(f"texts is a {kind.__name__}, {advice or _EXPECTED}")


def _advice(texts: object, kind: type) -> str | None:
    """What to give instead of this; None where nothing is against it."""
    if kind is list or kind is tuple:
        return None
    if isinstance(texts, (str, bytes, bytearray, memoryview, Mapping, Set, *_CHARACTERS)) or hasattr(kind, "typecode"):
        return _EXPECTED
    if hasattr(kind, "columns") and hasattr(kind, "collect"):
        return "which is not computed yet; pass one of its columns, as in texts.collect()['text']"
    if hasattr(kind, "__dataframe__") or (hasattr(kind, "columns") and hasattr(kind, "shape")):
        return f"which iterates over its columns; pass one of them, as in texts[{_likely_column(texts)!r}]"
    if hasattr(kind, "keys") and hasattr(kind, "__getitem__") and not hasattr(kind, "dtype"):
        return _EXPECTED
    if hasattr(texts, "readline"):
        return "an open file, whose lines end with newlines; pass (line.rstrip('\\n') for line in file)"
    if getattr(texts, "ndim", None) == 0:
        return "without dimensions; pass an array of shape [n]"
    return None


def _likely_column(frame: Any) -> object:
    """The name of the column that is probably meant: `text`, or the first that holds strings, or the first."""
    is_arrow = hasattr(frame, "column_names")
    names = frame.column_names if is_arrow else getattr(frame, "columns", None)
    types = frame.schema.types if is_arrow else getattr(frame, "dtypes", None)
    names, types = [list(() if items is None else items) for items in (names, types)]
    strings = [name for name, kind in zip(names, types, strict=False) if str(kind).lower().startswith(_STRING_TYPES)]
    return next(iter(["text"] if "text" in names else [*strings, *names]), "text")


def _arrow_texts(array: Any) -> Iterator[Text]:
    """The items of an Arrow array, some thousand at a time.

    Raises:
        TextError: while iterating; one is not UTF-8.
    """
    for start in range(0, len(array), _ARROW_ROWS):
        rows = array.slice(start, _ARROW_ROWS)
        try:
            texts = rows.to_pylist()
        except UnicodeDecodeError:
            raise _not_utf8(rows, start) from None
        yield from texts


def _not_utf8(rows: Any, start: int) -> TextError:
    """The error for the first of the rows that is not UTF-8; `start` is the first one's place in the input."""
    for index, row in enumerate(rows, start=start):
        try:
            row.as_py()
        except UnicodeDecodeError as error:
            return TextError(f"text {index} is not UTF-8 (byte 0x{error.object[error.start]:02x} at place {error.start + 1})", index=index)
    return TextError(f"a text among {start} to {start + len(rows) - 1} is not UTF-8")
