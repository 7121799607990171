"""What an `Encoder` reports about itself and about its last call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cls_runtime.errors import TextTooLongError, TruncationWarning

OnOverflow = Literal["warn", "truncate", "raise"]


@dataclass(frozen=True)
class Truncation:
    """A truncated text: its place in the input, and how many tokens were removed.

    `at_least` means that more were removed than were counted: a very long text is not tokenized to its end.
    """

    index: int
    removed_tokens: int
    at_least: bool = False

    @property
    def by(self) -> str:
        """How many tokens, in words."""
        return f"{'at least ' if self.at_least else ''}{self.removed_tokens} tokens"


def truncations(indices: Sequence[int], cuts: Sequence[Truncation | None]) -> tuple[Truncation, ...]:
    """Those of the texts at `indices` that were cut; `cuts` says how, for each, whatever index stands there."""
    return tuple(replace(cut, index=index) for index, cut in zip(indices, cuts, strict=True) if cut is not None)


@dataclass(frozen=True, kw_only=True)
class EncodeReport:
    """A report of one call of `encode` or `aencode`, or of one block of `stream`. For `aencode` it counts this request alone.

    Two reports are equal if everything but the seconds is equal.

    Attributes:
        texts: texts and pairs encoded.
        tokens: tokens computed, special tokens included, after truncation; a repeated text counts once.
        input_tokens: the same, but a repeated text counts each time.
        padding_tokens: padding computed with them; for `aencode`, with its own texts.
        batches: runs of the graph; for `aencode`, those with at least one of its texts.
        truncated: the truncated texts in input order; indices count from the start of the input or the stream.
        queue_s: seconds that `aencode` waited before its first round.
        tokenize_s: seconds of tokenizing; for `aencode`, in all rounds that it took part in.
        compute_s: seconds of running batches, summed over parallel ones; for `aencode`, in all rounds that it took part in.
    """

    texts: int = 0
    tokens: int = 0
    padding_tokens: int = 0
    batches: int = 0
    truncated: tuple[Truncation, ...] = ()
    input_tokens: int = 0
    queue_s: float = field(default=0.0, compare=False)
    tokenize_s: float = field(default=0.0, compare=False)
    compute_s: float = field(default=0.0, compare=False)

    def __add__(self, other: EncodeReport) -> EncodeReport:
        return EncodeReport(
            texts=self.texts + other.texts,
            tokens=self.tokens + other.tokens,
            padding_tokens=self.padding_tokens + other.padding_tokens,
            batches=self.batches + other.batches,
            truncated=self.truncated + other.truncated,
            input_tokens=self.input_tokens + other.input_tokens,
            queue_s=self.queue_s + other.queue_s,
            tokenize_s=self.tokenize_s + other.tokenize_s,
            compute_s=self.compute_s + other.compute_s,
        )


@dataclass(frozen=True, kw_only=True)
class BatchSummary:
    """One run of the graph.

    Attributes:
        texts: texts and pairs in it.
        tokens: their tokens.
        padding_tokens: the padding.
        seconds: the duration.
    """

    texts: int
    tokens: int
    padding_tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """The queue of `aencode`. Times are estimates from the last rounds.

    Attributes:
        texts: waiting texts; those being computed are not counted.
        characters: their characters.
        seconds: the time until everything that waits or is being computed is done.
        turn_seconds: the time until the current round and one turn of each waiting request are done: what a small request waits.
        stalled_s: how long there has been work without any batch finishing; 0.0 if there is no work.
    """

    texts: int = 0
    characters: int = 0
    seconds: float = 0.0
    turn_seconds: float = 0.0
    stalled_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """The engine of an Encoder and its settings.

    Attributes:
        engine: the engine's name.
        variant: the variant's name.
        reasons: why these two were chosen, one sentence each.
        threads: CPU threads in total.
        workers: batches computed at the same time.
        providers: the execution providers, as the engine names them.
        token_budget: the most tokens in a batch, padding included, unless one text has more.
        devices: the numbers of the GPUs in use; empty on a CPU.
    """

    engine: str
    variant: str
    reasons: tuple[str, ...]
    threads: int
    workers: int
    providers: tuple[str, ...]
    token_budget: int
    devices: tuple[int, ...] = ()


def check_overflow(truncated: Sequence[Truncation], *, max_length: int) -> None:
    """Refuses texts that are too long.

    Raises:
        TextTooLongError: there is one; it names the first.
    """
    if truncated:
        first = truncated[0]
        raise TextTooLongError(
            f"text {first.index} has {'at least ' if first.at_least else ''}{max_length + first.removed_tokens} tokens, "
            f"the model takes {max_length}; "
            "shorten or split it, or pass on_overflow='truncate'",
            index=first.index,
        )


def warn_of_truncation(truncated: Sequence[Truncation], *, max_length: int, stacklevel: int) -> None:
    """One TruncationWarning for all of `truncated`, which is not empty."""
    worst = max(truncated, key=lambda item: item.removed_tokens)
    warnings.warn(
        f"{len(truncated)} text(s) exceed the model's {max_length} tokens and were truncated, text {worst.index} by "
        f"{worst.by}; Encoder.last_report lists them, on_overflow='truncate' accepts it, 'raise' refuses",
        TruncationWarning,
        stacklevel=stacklevel + 1,
    )
