"""Inputs as an attacker makes them: a good or a known bad one, with values replaced, bytes turned over, parts cut out or said twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from json_mutations import mutated

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


@st.composite
def mutated_json(draw: st.DrawFn, seeds: Sequence[Any]) -> bytes:
    """One of `seeds`, with a few of its values changed."""
    return json.dumps(mutated(draw, draw(st.sampled_from(list(seeds))))).encode()


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
