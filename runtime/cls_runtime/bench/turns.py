"""Sides take turns: what the machine does meanwhile then hits all of them alike, and their ratio stays.

The one place where anything is timed in rounds, for `cls-bench`, for other projects and for the scripts in benchmarks/.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

NameT = TypeVar("NameT")
SampleT = TypeVar("SampleT")
ResultT = TypeVar("ResultT")


def in_turns(
    sides: Iterable[NameT],
    sample: Callable[[NameT, int], SampleT],
    *,
    rounds: int,
    before_round: Callable[[int], object] = lambda _: None,
) -> dict[NameT, tuple[SampleT, ...]]:
    """What `sample` gives for each side in every round. It is told the side and the number of the round; the order turns around each round.

    A sample is whatever the caller keeps: seconds, what another process measured, a whole run. `before_round` is told each number first.

    >>> order = []
    >>> in_turns("ab", lambda side, index: order.append(side) or f"{side}{index}", rounds=2)
    {'a': ('a0', 'a1'), 'b': ('b0', 'b1')}
    >>> order
    ['a', 'b', 'b', 'a']
    """
    names = list(sides)
    samples: dict[NameT, list[SampleT]] = {name: [] for name in names}
    for index in range(rounds):
        before_round(index)
        for name in names[:: -1 if index % 2 else 1]:
            samples[name].append(sample(name, index))
    return {name: tuple(taken) for name, taken in samples.items()}


def seconds_in_turns(
    sides: Mapping[NameT, Callable[[], object]],
    *,
    rounds: int,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[NameT, tuple[float, ...]]:
    """The seconds of each side's call in every round, by `clock`, after `warm_ups` calls that do not count."""
    for work in sides.values():
        for _ in range(warm_ups):
            work()
    return in_turns(sides, lambda name, _: clocked(sides[name], clock=clock)[0], rounds=rounds)


def clocked(work: Callable[[], ResultT], *, clock: Callable[[], float] = time.perf_counter) -> tuple[float, ResultT]:
    """The seconds that `work` takes by `clock`, and what it gives.

    `time.process_time` counts the CPU seconds of all threads of this process, `time.thread_time` those of the calling thread: what else the
    machine does shows in neither, except through its caches and its memory.
    """
    start = clock()
    result = work()
    return clock() - start, result
