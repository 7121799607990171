"""What a text is: a str or a pair of them, checked one by one and measured in characters."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

# A text, or a pair of texts that the model reads as one input.
Text = str | tuple[str, str]


def checked_text(text: object, index: int) -> Text:
    """`text` as a plain str or a pair of them: a subclass may compare, count or iterate in its own way, and two texts be one.

    Raises:
        TypeError: it is neither; `index` is its place in the message.
    """
    if type(text) is str:
        return text
    if isinstance(text, str):
        return str.__str__(text)
    items: list[object] | None = None
    if isinstance(text, tuple):
        items = list(tuple.__iter__(text))
    elif isinstance(text, list):
        items = list(list.__iter__(text))
    if items is not None and len(items) == 2:
        first, second = items
        if isinstance(first, str) and isinstance(second, str):
            return (str.__str__(first), str.__str__(second))
    raise TypeError(f"text {index} is {_kind(text, items)}, expected a str or a pair (str, str){_advice(text, items)}")


def checked_texts(texts: Iterable[object], indices: Sequence[int] | None = None) -> list[Text]:
    """All texts, each as of `checked_text`; `indices` are their places, None for those here."""
    if type(texts) is list and set(map(type, texts)) <= {str}:
        return list(texts)
    if indices is None:
        return [checked_text(text, index) for index, text in enumerate(texts)]
    return [checked_text(text, index) for text, index in zip(texts, indices, strict=True)]


def _kind(text: object, items: list[object] | None) -> str:
    """What was given in place of a text; of two items their types, since the number is right."""
    if items is None:
        return type(text).__name__
    if len(items) == 2:
        return f"a pair ({', '.join(type(item).__name__ for item in items)})"
    return f"a {type(text).__name__} of {len(items)} items"


def _advice(text: object, items: list[object] | None) -> str:
    """What to do about a row of a table, and about a value that is missing in one."""
    if items is not None and len(items) == 1:
        return "; of rows with one field pass the field"
    return "; a missing value has no vector, leave it out or fill it in" if any(map(_is_missing, items or [text])) else ""


def _is_missing(value: object) -> bool:
    """Whether a value is how a table says that there is none."""
    return value is None or (isinstance(value, float) and value != value) or type(value).__name__ in ("NAType", "NaTType")


def characters(text: Text) -> int:
    """The length of a text, or of both texts of a pair."""
    return len(text) if isinstance(text, str) else len(text[0]) + len(text[1])


def sizes(texts: Sequence[Text]) -> NDArray[np.intp]:
    """The `characters` of each text [n]."""
    measure = len if are_single(texts) else characters
    return np.fromiter(map(measure, texts), dtype=np.intp, count=len(texts))


def are_single(texts: Sequence[Text]) -> bool:
    """Whether none of them is a pair."""
    return set(map(type, texts)) <= {str}
