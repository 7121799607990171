"""The options of an `Encoder`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from cls_runtime.encoding.merging import MAX_WAITING_CHARACTERS, MAX_WAITING_TEXTS
from cls_runtime.encoding.report import OnOverflow
from cls_runtime.encoding.vectors import OnInvalid
from cls_runtime.engines.cpu import MOST_THREADS
from cls_runtime.engines.devices import Device, check_device
from cls_runtime.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class EncoderOptions:
    """The options of `Encoder.load` as one frozen value; `Encoder.load` documents each of them.

    Raises:
        UsageError: a value that makes no sense. Names of variants and engines are checked when a bundle is loaded.
    """

    variant: str = "auto"
    engine: str = "auto"
    threads: int | None = None
    on_overflow: OnOverflow = "warn"
    on_invalid: OnInvalid = "raise"
    check_hashes: bool = False
    token_budget: int | None = None
    max_waiting_texts: int = MAX_WAITING_TEXTS
    max_waiting_characters: int = MAX_WAITING_CHARACTERS
    fingerprint: str | None = None
    follow_links: bool = False
    device: Device | None = None

    def __post_init__(self) -> None:
        _check_one_of("on_overflow", self.on_overflow, get_args(OnOverflow))
        _check_one_of("on_invalid", self.on_invalid, get_args(OnInvalid))
        if self.threads is not None:
            _check_count("threads", self.threads, most=MOST_THREADS)
        if self.token_budget is not None:
            _check_count("token_budget", self.token_budget)
        _check_count("max_waiting_texts", self.max_waiting_texts)
        _check_count("max_waiting_characters", self.max_waiting_characters)
        if self.fingerprint is not None and not isinstance(self.fingerprint, str):
            raise UsageError(f"fingerprint is {self.fingerprint!r}, expected that of a manifest, or None")
        if not isinstance(self.follow_links, bool):
            raise UsageError(f"follow_links is {self.follow_links!r}, expected True or False")
        check_device(self.device, engine=self.engine)


def _check_one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise UsageError(f"{name} is {value!r}, expected one of {', '.join(allowed)}")


def _check_count(name: str, count: int, *, most: int | None = None) -> None:
    is_count = isinstance(count, int) and not isinstance(count, bool) and count >= 1
    if is_count and most is not None and count > most:
        raise UsageError(f"{name} is more than {most}, expected a whole number from 1 to {most}")
    if not is_count:
        raise UsageError(f"{name} is {count!r}, expected a whole number of at least 1")
