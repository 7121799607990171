"""Texts on their way through an engine: their batches while these run, and what has become of them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.batching import Batch
from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.report import EncodeReport, Truncation
from cls_runtime.encoding.rows import Rows
from cls_runtime.encoding.tokens import TokenizedTexts


@dataclass(frozen=True)
class Computed:
    """What became of n texts: their rows, their `lengths` in tokens [n], and the batches that they were in, which have their places."""

    rows: Rows
    lengths: NDArray[np.intp]
    batches: Sequence[Batch]
    report: EncodeReport


@dataclass(frozen=True)
class Job:
    """Texts on their way: `rows` is complete when all `futures` are, the batches of `batches` that do not run here.

    `unpooled` are the first tokens of each text that are read and not pooled [n]. `seconds` and `padding_tokens` are of each batch that
    has run.
    """

    texts: TokenizedTexts
    unpooled: NDArray[np.int32] | None
    output: str
    width: int
    batches: Sequence[Batch]
    rows: Rows
    truncated: tuple[Truncation, ...] = ()
    tokenize_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    padding_tokens: list[int] = field(default_factory=list)
    futures: list[tuple[Future[None], Batch]] = field(default_factory=list)

    @property
    def computed(self) -> Computed:
        """The result, once all has run."""
        tokens = len(self.texts.ids)
        report = EncodeReport(
            texts=len(self.texts),
            tokens=tokens,
            padding_tokens=sum(self.padding_tokens),
            batches=len(self.batches),
            truncated=self.truncated,
            input_tokens=tokens,
            tokenize_s=self.tokenize_s,
            compute_s=sum(self.seconds),
        )
        return Computed(self.rows, self.texts.lengths, self.batches, report)


def cuts_of(window: Window, texts: TokenizedTexts, places: NDArray[np.intp] | None = None) -> list[Truncation]:
    """Those of a window's texts that were cut when they became tokens: `texts`, or those of them at `places`."""
    removed, at_least = texts.removed, texts.at_least
    if places is not None:
        removed, at_least = removed[places], at_least[places]
    cut: Iterable[int] = removed.nonzero()[0].tolist()
    return [Truncation(window.indices[place], int(removed[place]), bool(at_least[place])) for place in cut]
