"""What an `Encoder` says about itself and about its last call."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cls_runtime.errors import TextTooLongError, TruncationWarning

OnOverflow = Literal["warn", "truncate", "raise"]


@dataclass(frozen=True)
class Truncation:
    """A text that was cut: its place in the input, and how many tokens were removed from it.

    With `at_least` there were more: a long text is not tokenized to its end.
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
    """What one call of `encode` or `aencode`, or one block of `stream`, did. Of `aencode` it is the request's own: no neighbour counts.

    Two reports are equal when all but the seconds are.

    Attributes:
        texts: texts and pairs encoded.
        tokens: tokens computed, special tokens included, after truncation; of a text that occurs twice, once.
        input_tokens: the same of all texts, of a text that occurs twice, twice.
        padding_tokens: padding that was computed beside them; of `aencode`, beside its own texts.
        batches: runs of the graph; of `aencode`, those that held one of its texts.
        truncated: the texts that were cut, in input order; indices count from the start of the input (of the stream).
        queue_s: seconds that `aencode` waited before its first round.
        tokenize_s: seconds of tokenizing; of `aencode`, in all the rounds that it was in.
        compute_s: seconds in which batches ran, those at once added up; of `aencode`, of all the rounds that it was in.
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
        padding_tokens: padding beside them.
        seconds: how long it took.
    """

    texts: int
    tokens: int
    padding_tokens: int
    seconds: float


@dataclass(frozen=True, kw_only=True)
class QueueState:
    """What waits for `aencode`, by the pace at which the last rounds were computed.

    Attributes:
        texts: texts that wait; those in a round do not.
        characters: their characters.
        seconds: how long all that waits and is in a round takes.
        turn_seconds: how long what is in a round and one turn of each request that waits take: what a small request waits.
        stalled_s: how long there has been work without a batch having ended; 0.0 where there is none.
    """

    texts: int = 0
    characters: int = 0
    seconds: float = 0.0
    turn_seconds: float = 0.0
    stalled_s: float = 0.0


@dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What an Encoder runs on.

    Attributes:
        engine: the engine's name.
        variant: the variant's name.
        reasons: why these two, one sentence each.
        threads: CPU threads in total.
        workers: batches computed at the same time.
        providers: what computes, in the engine's own words.
        token_budget: padded tokens in a batch at most, unless one text has more.
        devices: the numbers of the GPUs that compute; empty on a CPU.
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
