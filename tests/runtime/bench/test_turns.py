"""Sides in turns, on clocks made here: nothing in this file depends on how fast the machine is."""

import pytest

from cls_runtime.bench.spread import Spread, spread, times_as_fast
from cls_runtime.bench.turns import clocked, in_turns, seconds_in_turns


class Machine:
    """A clock that only work moves on: `work(2.0)` takes two seconds, times what `slowness` says at that moment."""

    def __init__(self, slowness=lambda now: 1.0):
        self.now = 0.0
        self.slowness = slowness

    def clock(self):
        return self.now

    def work(self, seconds):
        def work():
            self.now += seconds * self.slowness(self.now)
            return seconds

        return work


def test_the_order_turns_around_every_round():
    turns = []
    samples = in_turns("abc", lambda side, index: turns.append(side) or (side, index), rounds=3)
    assert "".join(turns) == "abc" + "cba" + "abc"
    assert samples == {side: tuple((side, index) for index in range(3)) for side in "abc"}


def test_no_rounds_are_no_samples():
    assert in_turns("ab", lambda side, index: pytest.fail("sampled"), rounds=0) == {"a": (), "b": ()}


def test_a_round_begins_before_its_first_turn():
    events = []
    in_turns("ab", lambda side, index: events.append(side), rounds=2, before_round=events.append)
    assert events == [0, "a", "b", 1, "b", "a"]


def test_the_seconds_are_those_of_the_call_alone_without_the_warm_ups():
    machine, calls = Machine(), []

    def side(name, seconds):
        work = machine.work(seconds)
        return lambda: (calls.append(name), work())

    samples = seconds_in_turns({"a": side("a", 1.0), "b": side("b", 4.0)}, rounds=2, warm_ups=3, clock=machine.clock)
    assert samples == {"a": (1.0, 1.0), "b": (4.0, 4.0)}
    assert "".join(calls) == "aaabbb" + "ab" + "ba"


def test_clocked_gives_the_result_too():
    machine = Machine()
    assert clocked(machine.work(3.0), clock=machine.clock) == (3.0, 3.0)


def test_spread_and_ratios():
    assert spread([5.0, 1.0, 2.0, 4.0]) == Spread(median=3.0, low=1.0, high=5.0)
    assert times_as_fast(ours=(1.0, 2.0), theirs=(4.0, 4.0)) == [4.0, 2.0]
    with pytest.raises(ValueError, match="longer"):
        times_as_fast([1.0], [1.0, 2.0])


def ratio(slowness, rounds=9):
    machine = Machine(slowness)
    seconds = seconds_in_turns({"fast": machine.work(1.0), "slow": machine.work(1.6)}, rounds=rounds, clock=machine.clock)
    return spread(times_as_fast(seconds["fast"], seconds["slow"])).median, sum(map(sum, seconds.values()))


def heats_up(now):
    """Slower all the time."""
    return 1.0 + now / 20


def has_a_neighbour(now):
    """Half as fast from the tenth second on, until the neighbour has done its work."""
    return 2.0 if 10 <= now < 30 else 1.0


def has_a_restless_neighbour(now):
    """Half as fast in two of every seven seconds."""
    return 2.0 if now % 7 < 2 else 1.0


@pytest.mark.parametrize("slowness", [heats_up, has_a_neighbour, has_a_restless_neighbour])
def test_ratios_stay_where_times_do_not(slowness):
    """What docs/guides/benchmark.md promises of two runs: the ratios agree within 10%, though the second took much longer in all."""
    quiet, busy = ratio(lambda now: 1.0), ratio(slowness)
    assert busy[0] == pytest.approx(quiet[0], rel=0.10)
    assert busy[1] > 1.15 * quiet[1]


def test_without_turns_the_same_drift_would_be_taken_for_a_difference():
    """The test above can fail: one side after the other, on the machine that gets slower, is off by a quarter and more."""
    machine = Machine(heats_up)
    first, second = ([clocked(machine.work(seconds), clock=machine.clock)[0] for _ in range(9)] for seconds in (1.0, 1.6))
    assert spread(times_as_fast(first, second)).median > 1.25 * 1.6
