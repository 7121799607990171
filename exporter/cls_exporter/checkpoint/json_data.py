"""JSON that somebody else wrote: UTF-8, each key once, numbers that any program reads, whole characters."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Iterator
from typing import Any

from cls_exporter.errors import shown

_DIGITS = 40  # transformers writes 1e30 as an integer where it means "no limit"


def parse_json(data: bytes) -> Any:
    """The value that `data` holds.

    Raises:
        ValueError: it is no JSON, says a key twice, or holds NaN, an infinity, a number of more than 40 digits or half a character.
        RecursionError: it is nested too deeply.
    """
    text = data.decode("utf-8")
    with _cut_is_told(text):
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)
    if "\\u" in text:  # json.loads lets "\ud800" through, which no file can be written with
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    return value


def check_whole(data: bytes) -> None:
    """Looks whether `data`, which another library will read, is whole and JSON at all.

    Raises:
        ValueError: it is cut short, or no JSON.
        RecursionError: it is nested too deeply.
    """
    text = data.decode("utf-8-sig")
    with _cut_is_told(text):
        json.loads(text)


@contextlib.contextmanager
def _cut_is_told(text: str) -> Iterator[None]:
    """An error of json.loads at the end of what there is says so."""
    try:
        yield
    except json.JSONDecodeError as error:
        rest = text[error.pos :].rstrip()
        if error.msg.startswith("Unterminated string") or any(word.startswith(rest) for word in ("true", "false", "null", "-")):
            raise ValueError(f"it is cut short after {len(text)} characters") from None
        raise


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content: dict[str, Any] = {}
    for name, value in pairs:
        if name in content:
            raise ValueError(f"the key {shown(name)} stands there twice")
        content[name] = value
    return content


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"the number {digits[:_DIGITS]} is too large")
    return value


def _int(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number has {len(digits)} digits, expected at most {_DIGITS}")
    return int(digits)
