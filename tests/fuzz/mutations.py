"""Inputs as an attacker makes them: a good or a known bad one, with values replaced, bytes turned over, parts cut out or said twice."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

# What readers were seen to stumble over, as JSON values.
HOSTILE_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    -5,
    1,
    7,
    2**31 + 5,
    2**63,
    10**30,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x1b]0;owned\x07",
    "\u202e",
    "../../x",
    "/dev/zero",
    "C:\\x",
    "a\0b",
    "9" * 400,
    "x" * 5000,
    [],
    {},
    [[]],
    [None],
    [1],
    {"": ""},
    {"type": "Sequence"},
)
HOSTILE_BYTES = (
    b"",
    b"\0",
    b"\xff",
    b"\n",
    b'"',
    b"\\ud800",
    b"[" * 3000,
    b"9" * 500,
    b"\x1b[2J",
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"PK\x03\x04",
    b"%s%n",
    b"NaN",
)
Path_ = tuple[str | int, ...]


@st.composite
def mutated_json(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """One of `seeds`, with one to four values replaced, taken away, or moved from another place of it."""
    value = copy.deepcopy(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 4))):
        places = list(_places(value))
        if not places:
            break
        path = draw(st.sampled_from(places))
        kind = draw(st.sampled_from(["replace", "remove", "move", "rename"]))
        parent, key = _at(value, path[:-1]), path[-1]
        if kind == "remove":
            del parent[key]
        elif kind == "move":
            parent[key] = copy.deepcopy(_at(value, draw(st.sampled_from(places))))
        elif kind == "rename" and isinstance(parent, dict):
            parent[draw(st.sampled_from(["", "\ud800", "../x", "\x1b[2J", "type", "content"]))] = parent.pop(key)
        else:
            parent[key] = copy.deepcopy(draw(st.sampled_from(HOSTILE_VALUES)))
    try:
        return json.dumps(value).encode()
    except ValueError:  # moved into itself
        return b"{}"


@st.composite
def mutated_bytes(draw: st.DrawFn, seeds: Sequence[bytes]) -> bytes:
    """One of `seeds`, with one to eight bytes or parts changed."""
    data = bytearray(draw(st.sampled_from(list(seeds))))
    for _ in range(draw(st.integers(1, 8))):
        start = draw(st.integers(0, len(data)))
        stop = min(len(data), start + draw(st.sampled_from([0, 1, 2, 8, 100])))
        kind = draw(st.sampled_from(["bit", "byte", "insert", "cut", "twice", "end"]))
        if kind == "bit" and start < len(data):
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif kind == "byte" and start < len(data):
            data[start] = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF, draw(st.integers(0, 255))]))
        elif kind == "insert":
            data[start:start] = draw(st.sampled_from(HOSTILE_BYTES))
        elif kind == "cut":
            del data[start:stop]
        elif kind == "twice":
            data[start:start] = data[start:stop]
        elif kind == "end":
            del data[start:]
    return bytes(data)


def _places(value: Any, path: Path_ = ()) -> Iterator[Path_]:
    """The paths to every value inside."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def _at(value: Any, path: Path_) -> Any:
    for key in path:
        value = value[key]
    return value
