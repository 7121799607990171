"""Cuts an input of any length into windows that fit in memory, and takes out what occurs twice."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.report import EncodeReport, Truncation, truncations
from cls_runtime.encoding.rows import Rows, is_per_token
from cls_runtime.encoding.texts import Text, characters, sizes

WINDOW_CHARACTERS = 2**22
# About as many as a window's rows take where each token has one: few tokens have less than a character.
WINDOW_BYTES = 2**26


@dataclass(frozen=True)
class Window:
    """Consecutive texts of the input. `indices` are their places in it, for errors and reports.

    `prompt_tokens` says of each text how many of its first tokens are read and not pooled; None where that is none of any.
    """

    texts: Sequence[Text]
    indices: Sequence[int]
    prompt_tokens: Sequence[int] | None = None

    def unpooled(self, tokens: int) -> Window:
        """The same texts, of which the first `tokens` tokens are read and not pooled."""
        return replace(self, prompt_tokens=[tokens] * len(self.texts)) if tokens else self

    def part(self, start: int, stop: int) -> Window:
        """The texts from `start` to before `stop`."""
        prompt_tokens = None if self.prompt_tokens is None else self.prompt_tokens[start:stop]
        return Window(self.texts[start:stop], self.indices[start:stop], prompt_tokens)

    def only(self, rows: Sequence[int]) -> Window:
        """The texts at `rows`."""
        prompt_tokens = None if self.prompt_tokens is None else [self.prompt_tokens[row] for row in rows]
        return Window([self.texts[row] for row in rows], [self.indices[row] for row in rows], prompt_tokens)


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

    def rows_of_all(self, rows: Rows) -> Rows:
        """The rows of all n texts, from those of `once`; none of them shares its memory with another."""
        if not self.repeats:
            return rows
        return [rows[position].copy() for position in self.positions] if isinstance(rows, list) else rows[self.positions]

    def cuts_of_all(self, truncated: Sequence[Truncation]) -> list[Truncation | None]:
        """How each of the n texts was cut, from what was cut of `once`; the indices are those of `once`."""
        cut = {item.index: item for item in truncated}
        of_once = [cut.get(index) for index in self.once.indices]
        return [of_once[position] for position in self.positions]

    def report_of_all(self, report: EncodeReport, lengths: NDArray[np.intp]) -> EncodeReport:
        """The report on all texts, from the one on `once`: what was computed stays, the texts and those that were cut are more.

        `lengths` are the tokens of each text of `once`.
        """
        if not self.repeats:
            return report if report.input_tokens == report.tokens else replace(report, input_tokens=report.tokens)
        truncated = truncations(self.whole.indices, self.cuts_of_all(report.truncated))
        return replace(report, texts=len(self.positions), truncated=truncated, input_tokens=int(lengths[self.positions].sum()))


def most_characters(output: str, width: int) -> int:
    """How many characters a window may have whose texts get rows of this output and width."""
    return max(1, WINDOW_BYTES // (width * np.dtype(np.float32).itemsize)) if is_per_token(output) else WINDOW_CHARACTERS


def windows(texts: Iterable[Text], *, most_texts: int, most: int = WINDOW_CHARACTERS) -> Iterator[Window]:
    """Windows of `texts`, in order; each text's index is its place in `texts`.

    A window ends at `most_texts` texts or with the text that brings it to `most` characters.
    """
    held: list[Text] = []
    size = 0
    start = 0
    for text in texts:
        held.append(text)
        size += characters(text)
        if len(held) == most_texts or size >= most:
            yield Window(held, range(start, start + len(held)))
            start += len(held)
            held, size = [], 0
    if held:
        yield Window(held, range(start, start + len(held)))


def split(window: Window, *, most_texts: int, most: int = WINDOW_CHARACTERS) -> Iterator[Window]:
    """A window of any size as windows within the limits of `windows`; the indices are kept."""
    count = len(window.texts)
    if count == 1:
        yield window
        return
    of_each = sizes(window.texts)
    ends = of_each.cumsum()
    start = 0
    while start < count:
        full = int(np.searchsorted(ends, ends[start] - of_each[start] + most)) + 1
        stop = min(full, start + most_texts, count)
        yield window if stop - start == count else window.part(start, stop)
        start = stop


def distinct(window: Window) -> Distinct:
    """Each text of the window once, where it first occurs. Texts of which the model pools other tokens are not the same.

    >>> texts = distinct(Window(["b", "a", "b"], range(3)))
    >>> texts.once.texts, texts.once.indices, texts.positions.tolist()
    (['b', 'a'], [0, 1], [0, 1, 0])
    """
    inputs: Iterable[Hashable] = window.texts if window.prompt_tokens is None else zip(window.texts, window.prompt_tokens, strict=True)
    inputs = list(inputs)
    if len(set(inputs)) == len(inputs):
        return Distinct(window, window, np.arange(len(inputs)))
    places: dict[Hashable, int] = {}
    rows: list[int] = []
    positions = np.empty(len(window.texts), dtype=np.intp)
    for row, given in enumerate(inputs):
        place = places.setdefault(given, len(places))
        if place == len(rows):
            rows.append(row)
        positions[row] = place
    return Distinct(window, window.only(rows), positions)
