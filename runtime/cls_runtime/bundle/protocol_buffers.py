"""The fields of a protocol buffer, by number, without knowing its schema: https://protobuf.dev/programming-guides/encoding/."""

from __future__ import annotations

import mmap
from collections.abc import Iterator

Buffer = mmap.mmap | bytes
Span = tuple[int, int]  # from, to
_VARINT, _EIGHT_BYTES, _LENGTH, _FOUR_BYTES = 0, 1, 2, 5  # wire types


def messages(data: Buffer, span: Span) -> Iterator[tuple[int, Span]]:
    """The fields of a message that have a length, by number; others are passed over.

    Raises:
        ValueError: it is cut short, or no protocol buffer.
        IndexError: the data ends within a number.
    """
    place, end = span
    while place < end:
        # A byte is the rule: field numbers below 16, lengths below 128.
        tag = data[place]
        place += 1
        if tag > 0x7F:
            tag, place = _varint(data, place - 1)
        wire = tag & 7
        if wire == _LENGTH:
            length = data[place]
            place += 1
            if length > 0x7F:
                length, place = _varint(data, place - 1)
            if place + length > end:
                raise ValueError("it is cut short")
            yield tag >> 3, (place, place + length)
            place += length
        elif wire == _VARINT:
            _, place = _varint(data, place)
        elif wire == _EIGHT_BYTES:
            place += 8
        elif wire == _FOUR_BYTES:
            place += 4
        else:
            raise ValueError("it is no protocol buffer")
    if place != end:
        raise ValueError("it is cut short")


def _varint(data: Buffer, place: int) -> tuple[int, int]:
    """A number of at most ten bytes, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
    raise ValueError("it is no protocol buffer")


def text_of(data: Buffer, span: Span) -> str:
    """A field as text; bytes that are none are written out."""
    return bytes(data[span[0] : span[1]]).decode("utf-8", "backslashreplace")
