"""Checks of options' values, with one form of message."""

from __future__ import annotations

from collections.abc import Sequence

from cls_runtime.errors import UsageError
from cls_runtime.suggestions import did_you_mean


def check_choice(name: str, value: object, allowed: Sequence[str]) -> None:
    """Refuses anything but one of `allowed`.

    Raises:
        UsageError: it is none of them.
    """
    if not isinstance(value, str) or value not in allowed:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(allowed)}{did_you_mean(value, allowed)}")


def check_flag(name: str, value: object) -> None:
    """Refuses anything but True and False.

    Raises:
        UsageError: it is neither.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{name} is {value!r}, expected True or False")


def check_count(name: str, value: object, *, most: int | None = None, or_none: bool = False) -> None:
    """Refuses anything but a whole number from 1 to `most`; with `or_none`, the message allows None as well.

    Raises:
        UsageError: it is no such number.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UsageError(f"{name} is {value!r}, expected a whole number of at least 1{', or None' if or_none else ''}")
    if most is not None and value > most:
        raise UsageError(f"{name} is more than {most}, expected a whole number from 1 to {most}")
