"""JSON values with one or a few places changed: what a damaged or hostile file may hold."""

from __future__ import annotations

import copy
from typing import Any

from hypothesis import strategies as st

# What is most often not thought of, by JSON's types.
ODD = (
    None,
    True,
    False,
    0,
    -1,
    -5,
    1,
    2**31,
    2**31 + 5,
    2**32 - 1,
    2**32,
    2**63,
    10**30,
    10**400,
    0.5,
    -0.0,
    1e308,
    1e-320,
    float("nan"),
    float("inf"),
    "",
    "\0",
    "\ud800",
    "\x1b[2J",
    "\u202e",
    "../..",
    "/dev/zero",
    "9" * 400,
    "a" * 5000,
    "1",
    "[PAD]",
    [],
    [[]],
    [None],
    {},
    {"": None},
)


def mutated(draw: st.DrawFn, value: Any) -> Any:
    """A copy of `value` with one to three places set to something odd, to another place's value, removed, or repeated."""
    changed = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, 3))):
        spots = list(_places(changed))
        if not spots:
            return changed
        container, key = draw(st.sampled_from(spots))
        action = draw(st.sampled_from(("odd", "odd", "other", "remove", "repeat")))
        if action == "odd":
            container[key] = copy.deepcopy(draw(st.sampled_from(ODD)))
        elif action == "other":
            other, place = draw(st.sampled_from(spots))
            container[key] = copy.deepcopy(other[place])
        elif action == "remove":
            del container[key]
        elif isinstance(container, list):
            container.extend(copy.deepcopy(container[key]) for _ in range(draw(st.sampled_from((1, 20)))))
        else:
            container[draw(st.sampled_from(("", "later", "type", str(key).upper())))] = copy.deepcopy(container[key])
    return changed


def _places(value: Any) -> Any:
    """Every container in `value` with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
