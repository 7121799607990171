"""Sides take turns: what the machine does meanwhile then hits all of them alike, and their ratio stays."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping


def in_turns(sides: Mapping[str, Callable[[], object]], *, rounds: int, warm_up: bool = True) -> dict[str, tuple[float, ...]]:
    """The seconds of each side's call in every round. The order turns around each round; without `warm_up` the first round counts.

    >>> order = []
    >>> seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=2, warm_up=False)
    >>> order, [len(samples) for samples in seconds.values()]
    (['a', 'b', 'b', 'a'], [2, 2])
    """
    if warm_up:
        for work in sides.values():
            work()
    samples: dict[str, list[float]] = {name: [] for name in sides}
    for index in range(rounds):
        for name in list(sides)[:: -1 if index % 2 else 1]:
            start = time.perf_counter()
            sides[name]()
            samples[name].append(time.perf_counter() - start)
    return {name: tuple(seconds) for name, seconds in samples.items()}
