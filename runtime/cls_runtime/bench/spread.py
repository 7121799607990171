"""What samples of a few rounds say: a median with its range, and how many times as fast one side was as another."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Spread:
    """A median and the range of the samples."""

    median: float
    low: float
    high: float


def spread(samples: Iterable[float]) -> Spread:
    """Median, lowest and highest of at least one sample.

    >>> spread([3.0, 1.0, 2.0])
    Spread(median=2.0, low=1.0, high=3.0)
    """
    ascending = sorted(samples)
    return Spread(median=statistics.median(ascending), low=ascending[0], high=ascending[-1])


def times_as_fast(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """How many times as fast we were in each round, from the seconds of both: in a round both had their turn, so both had the same machine.

    >>> times_as_fast([1.0, 2.0], [3.0, 5.0])
    [3.0, 2.5]
    """
    return [slow / fast for fast, slow in zip(ours, theirs, strict=True)]
