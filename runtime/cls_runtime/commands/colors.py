"""Colors of a command's output: on a terminal only, and never where NO_COLOR, TERM=dumb or `--json` says no."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Literal

Color = Literal["red", "green", "yellow"]
_CODES: dict[Color, int] = {"red": 31, "green": 32, "yellow": 33}
_ALLOWED: ContextVar[bool] = ContextVar("cls_colors_allowed", default=True)


@contextlib.contextmanager
def colors_of_a_command() -> Iterator[None]:
    """Undoes `forbid_colors` when the command ends."""
    token = _ALLOWED.set(True)
    try:
        yield
    finally:
        _ALLOWED.reset(token)


def forbid_colors() -> None:
    """No colors for the rest of the command, whatever the stream is."""
    _ALLOWED.set(False)


def painted(text: str, color: Color, stream: Any) -> str:
    """`text` in a color if `stream` shows colors, else `text`."""
    return f"\x1b[{_CODES[color]}m{text}\x1b[0m" if text and _shows_colors(stream) else text


def _shows_colors(stream: Any) -> bool:
    if not _ALLOWED.get() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return False
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):  # no stream, or a closed one
        return False
