"""What may be given as texts: an iterable of them, and not one that iterates over what nobody means."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set

from cls_runtime.encoding.tokenizer import Text

_EXPECTED = "expected a list or another ordered iterable of str or of pairs (str, str)"
# Each iterates over the characters of a str; ASCII has an iterator of its own.
_CHARACTERS = (type(iter("")), type(iter("\u00e9")))


def iterable_of_texts(texts: Iterable[Text]) -> Iterable[Text]:
    """`texts`, unless its kind says that it iterates over something else. It is judged by what it can do: no package is imported.

    Raises:
        TypeError: a str, bytes or a buffer of characters, a mapping, a set, a data frame or a table (column names), an open file (lines
            with their ends), an array without a dimension, or no iterable at all.
    """
    kind = type(texts)
    advice = _advice(texts, kind)
    if advice is None and isinstance(texts, Iterable):
        return texts
    raise TypeError(f"texts is a {kind.__name__}, {advice or _EXPECTED}")


def _advice(texts: object, kind: type) -> str | None:
    """What to give instead of this; None where nothing is against it."""
    if kind is list or kind is tuple:
        return None
    if isinstance(texts, (str, bytes, bytearray, memoryview, Mapping, Set, *_CHARACTERS)) or hasattr(kind, "typecode"):
        return _EXPECTED
    if hasattr(kind, "__dataframe__") or (hasattr(kind, "columns") and hasattr(kind, "shape")):
        return "which iterates over its columns; pass one column as a list of str"
    if hasattr(kind, "keys") and hasattr(kind, "__getitem__") and not hasattr(kind, "dtype"):
        return _EXPECTED
    if hasattr(texts, "readline"):
        return "an open file, whose lines end in newlines; pass (line.rstrip('\\n') for line in file)"
    if getattr(texts, "ndim", None) == 0:
        return "of no dimension; pass one of shape [n]"
    return None
