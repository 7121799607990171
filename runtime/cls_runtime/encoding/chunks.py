"""Cuts an input of any length into windows that fit in memory, and takes out what occurs twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.report import EncodeReport, Truncation, truncations
from cls_runtime.encoding.tokenizer import Text, characters

Float32 = NDArray[np.float32]

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
    """The n texts of the window `whole`, each of them once in `once`, where it first occurs.

    `positions` [n] says which text of `once` each text of `whole` is.
    """

    whole: Window
    once: Window
    positions: NDArray[np.intp]

    @property
    def repeats(self) -> bool:
        """Whether some text occurs twice."""
        return len(self.positions) > len(self.once.texts)

    def rows_of_all(self, rows: Float32) -> Float32:
        """The rows float32 [n, width] of all texts, from those of `once`."""
        return rows[self.positions] if self.repeats else rows

    def cuts_of_all(self, truncated: Sequence[Truncation]) -> list[Truncation | None]:
        """How each of the n texts was cut, from what was cut of `once`; the indices are those of `once`."""
        cut = {item.index: item for item in truncated}
        of_once = [cut.get(index) for index in self.once.indices]
        return [of_once[position] for position in self.positions]

    def report_of_all(self, report: EncodeReport) -> EncodeReport:
        """The report on all texts, from the one on `once`: what was computed stays, the texts and those that were cut are more."""
        if not self.repeats:
            return report
        truncated = truncations(self.whole.indices, self.cuts_of_all(report.truncated))
        return replace(report, texts=len(self.positions), truncated=truncated)


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

    >>> texts = distinct(Window(["b", "a", "b"], range(3)))
    >>> texts.once.texts, texts.once.indices, texts.positions.tolist()
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
    return Distinct(window, Window(list(places), indices), positions)
