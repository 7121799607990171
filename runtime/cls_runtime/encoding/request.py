"""A request of `aencode` on its way: what is asked for, what of it is taken, and what has come of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.overflow import Overflow
from cls_runtime.encoding.pace import guessed_tokens
from cls_runtime.encoding.report import EncodeReport, Truncation
from cls_runtime.encoding.rows import Rows, empty_rows
from cls_runtime.encoding.texts import characters

if TYPE_CHECKING:
    import asyncio

# Only requests for one graph output share a round, and of these only those that do the same about texts that are too long.
Kind = tuple[str, bool, bool]
# A request's rows, its report, and the tokens of each of its texts.
Outcome = tuple[Rows, EncodeReport, NDArray[np.intp]]


@dataclass(eq=False, slots=True)
class Request:
    """Distinct texts on their way to vectors, and who waits for them.

    Attributes:
        sizes: the characters of each text.
        costs: the guessed tokens of each text.
        order: the texts' places, in the order in which they are taken; None for that of the window.
        deadline: when it is given up, by `time.monotonic`; None for never.
        taken: texts that are in a round or done.
        missing: texts that are not done.
        left: guessed tokens of the texts that are not taken.
        turn: those of its next share, as last counted.
        long: which lane it is in.
        ended: whether it has its outcome, or was withdrawn.
    """

    window: Window
    output: str
    width: int
    overflow: Overflow
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Outcome]
    deadline: float | None
    sizes: Sequence[int]
    costs: Sequence[int]
    left: int
    missing: int
    order: Sequence[int] | None = None
    since: float = field(default_factory=time.monotonic)
    taken: int = 0
    turn: int = 0
    long: bool = False
    ended: bool = False
    timer: asyncio.TimerHandle | None = None
    rows: Rows | None = None
    lengths: NDArray[np.intp] | None = None
    padding_tokens: int = 0
    batches: int = 0
    truncated: list[Truncation] = field(default_factory=list)
    queue_s: float = 0.0
    tokenize_s: float = 0.0
    compute_s: float = 0.0

    @classmethod
    def of(
        cls,
        window: Window,
        output: str,
        *,
        width: int,
        overflow: Overflow,
        loop: asyncio.AbstractEventLoop,
        deadline: float | None,
        max_length: int,
    ) -> Request:
        """The request for the vectors of a window's texts, of each of which the model takes `max_length` tokens at most."""
        sizes = [characters(text) for text in window.texts]
        costs = [guessed_tokens(size, max_length) for size in sizes]
        return cls(window, output, width, overflow, loop, loop.create_future(), deadline, sizes, costs, sum(costs), len(sizes))

    @property
    def kind(self) -> Kind:
        """What its neighbours in a round have in common with it."""
        return self.output, self.overflow.action == "raise", self.overflow.truncate_left

    @property
    def count(self) -> int:
        """How many texts it has."""
        return len(self.sizes)

    @property
    def next_place(self) -> int:
        """The place of the text that is taken next."""
        return self.taken if self.order is None else self.order[self.taken]

    @property
    def outcome(self) -> Outcome:
        """What is handed out, once nothing is missing."""
        assert self.rows is not None
        assert self.lengths is not None
        tokens = int(self.lengths.sum())
        report = EncodeReport(
            texts=self.count,
            tokens=tokens,
            padding_tokens=self.padding_tokens,
            batches=self.batches,
            truncated=tuple(sorted(self.truncated, key=lambda cut: cut.index)),
            input_tokens=tokens,
            queue_s=self.queue_s,
            tokenize_s=self.tokenize_s,
            compute_s=self.compute_s,
        )
        return self.rows, report, self.lengths

    def takes_in(self, share: Share, result: ShareResult) -> bool:
        """Adds what became of a share; whether that was the last one."""
        if share.places is None:
            self.rows, self.lengths = result.rows, np.array(result.lengths, dtype=np.intp)
        else:
            if self.rows is None or self.lengths is None:
                self.rows, self.lengths = empty_rows(self.count, self.output, self.width), np.empty(self.count, dtype=np.intp)
            self.lengths[share.places] = result.lengths
            if isinstance(self.rows, list):
                for place, row in zip(share.places, result.rows, strict=True):
                    self.rows[place] = row
            else:
                self.rows[share.places] = result.rows
        self.padding_tokens += result.padding_tokens
        self.batches += result.batches
        self.truncated += result.truncated
        self.tokenize_s += result.tokenize_s
        self.compute_s += result.compute_s
        self.missing -= share.count
        return not self.missing


@dataclass(frozen=True, slots=True)
class Share:
    """The texts of a request at `places`, None for all of them, with so many characters and guessed tokens."""

    request: Request
    places: Sequence[int] | None
    count: int
    characters: int
    tokens: int

    def split(self, done: Sequence[int]) -> tuple[Share, list[int]]:
        """The share of those of its texts, and the places of the others in the request."""
        places = range(self.request.count) if self.places is None else self.places
        ours = sorted(places[each] for each in done)
        others = sorted(set(places).difference(ours))
        sizes, costs = self.request.sizes, self.request.costs
        characters, tokens = sum(sizes[place] for place in ours), sum(costs[place] for place in ours)
        return Share(self.request, ours, len(ours), characters, tokens), others

    @property
    def window(self) -> Window:
        """Its texts."""
        return self.request.window if self.places is None else self.request.window.only(self.places)


@dataclass(frozen=True, slots=True)
class ShareResult:
    """What became of a share: `error` says why nothing did. The seconds are the round's.

    Attributes:
        rows: of its texts, in its memory alone.
        lengths: the tokens of each.
        padding_tokens: padding beside them.
        batches: those that held one of them.
        truncated: those that were cut.
        done: which of the share's texts these are; None for all of them.
    """

    rows: Rows = field(default_factory=list)
    lengths: Sequence[int] = ()
    padding_tokens: int = 0
    batches: int = 0
    truncated: Sequence[Truncation] = ()
    tokenize_s: float = 0.0
    compute_s: float = 0.0
    error: Exception | None = None
    done: Sequence[int] | None = None
