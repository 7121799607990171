"""Cuts an input of any length into windows that fit in memory, and takes out what occurs twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.tokenizer import Text, characters

# Texts are sorted by length within a window: enough of them that neighbours are equally long, few enough to hold in memory.
WINDOW_TEXTS = 4096
WINDOW_CHARACTERS = 2**22


@dataclass(frozen=True)
class Window:
    """Consecutive texts of the input. `indices` are their places in it, for errors and reports."""

    texts: Sequence[Text]
    indices: Sequence[int]


@dataclass(frozen=True)
class Distinct:
    """The distinct texts of a window, and `positions` [n]: which of them each text of the window is."""

    window: Window
    positions: NDArray[np.intp]

    @property
    def repeats(self) -> bool:
        """Whether some text occurs twice."""
        return len(self.positions) > len(self.window.texts)


def windows(texts: Iterable[Text]) -> Iterator[Window]:
    """Windows of `texts`, in order; each text's index is its place in `texts`.

    A window ends at `WINDOW_TEXTS` texts or with the text that brings it to `WINDOW_CHARACTERS` characters.
    """
    held: list[Text] = []
    size = 0
    start = 0
    for text in texts:
        held.append(text)
        size += characters(text)
        if len(held) == WINDOW_TEXTS or size >= WINDOW_CHARACTERS:
            yield Window(held, range(start, start + len(held)))
            start += len(held)
            held, size = [], 0
    if held:
        yield Window(held, range(start, start + len(held)))


def split(window: Window) -> Iterator[Window]:
    """A window of any size as windows within the limits of `windows`; the indices are kept."""
    for part in windows(window.texts):
        yield Window(part.texts, [window.indices[index] for index in part.indices])


def distinct(window: Window) -> Distinct:
    """Each text of the window once, where it first occurs.

    >>> found = distinct(Window(["b", "a", "b"], range(3)))
    >>> found.window.texts, found.window.indices, found.positions.tolist()
    (['b', 'a'], [0, 1], [0, 1, 0])
    """
    places: dict[Text, int] = {}
    indices: list[int] = []
    positions = np.empty(len(window.texts), dtype=np.intp)
    for row, (text, index) in enumerate(zip(window.texts, window.indices, strict=True)):
        place = places.setdefault(text, len(places))
        if place == len(indices):
            indices.append(index)
        positions[row] = place
    return Distinct(Window(list(places), indices), positions)
