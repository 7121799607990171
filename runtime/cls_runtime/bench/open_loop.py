"""Open-loop load: requests are due at times that no answer moves, as those of many clients are who know nothing of each other.

A client that waits for an answer before it sends the next request sends less to a server that is slow, and does not see what the requests
would have waited that it did not send. Here a request's time runs from when it was due, whenever it was sent.
"""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Pace:
    """When requests are due: `rate` a second for `seconds`, as a Poisson process, or at `even` distances."""

    rate: float
    seconds: float
    even: bool = False
    seed: int = 0


def due_times(pace: Pace) -> list[float]:
    """Seconds from the start at which a request is due, ascending; the same for the same pace.

    >>> due_times(Pace(rate=4, seconds=1, even=True))
    [0.0, 0.25, 0.5, 0.75]
    """
    if pace.even:
        return [index / pace.rate for index in range(int(pace.rate * pace.seconds))]
    source = random.Random(pace.seed)
    times: list[float] = []
    due = source.expovariate(pace.rate)
    while due < pace.seconds:
        times.append(due)
        due += source.expovariate(pace.rate)
    return times
