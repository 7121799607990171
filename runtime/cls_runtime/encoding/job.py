"""Texts on their way through an engine: their batches while these run, and what has become of them."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.batching import Batch
from cls_runtime.encoding.chunks import Window
from cls_runtime.encoding.report import EncodeReport, Truncation
from cls_runtime.encoding.rows import Rows
from cls_runtime.encoding.tokenizer import TokenizedText


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

    `seconds` has those of each batch that has run.
    """

    texts: Sequence[TokenizedText]
    prompt_tokens: Sequence[int] | None
    output: str
    width: int
    lengths: NDArray[np.intp]
    batches: Sequence[Batch]
    rows: Rows
    truncated: tuple[Truncation, ...] = ()
    tokenize_s: float = 0.0
    seconds: list[float] = field(default_factory=list)
    futures: list[tuple[Future[None], Batch]] = field(default_factory=list)

    @property
    def computed(self) -> Computed:
        """The result, once all has run."""
        tokens = int(self.lengths.sum())
        report = EncodeReport(
            texts=len(self.texts),
            tokens=tokens,
            padding_tokens=sum(batch.rows * batch.width for batch in self.batches) - tokens,
            batches=len(self.batches),
            truncated=self.truncated,
            input_tokens=tokens,
            tokenize_s=self.tokenize_s,
            compute_s=sum(self.seconds),
        )
        return Computed(self.rows, self.lengths, self.batches, report)


def cuts_of(window: Window, texts: Sequence[TokenizedText]) -> list[Truncation]:
    """Those of a window's texts that were cut when they became tokens."""
    return [Truncation(index, text.removed, text.at_least) for index, text in zip(window.indices, texts, strict=True) if text.removed]
