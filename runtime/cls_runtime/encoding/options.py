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
from cls_runtime.option_checks import check_choice, check_count, check_flag


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
        check_choice("on_overflow", self.on_overflow, get_args(OnOverflow))
        check_choice("on_invalid", self.on_invalid, get_args(OnInvalid))
        if self.threads is not None:
            check_count("threads", self.threads, most=MOST_THREADS)
        if self.token_budget is not None:
            check_count("token_budget", self.token_budget)
        check_count("max_waiting_texts", self.max_waiting_texts)
        check_count("max_waiting_characters", self.max_waiting_characters)
        if self.fingerprint is not None and not isinstance(self.fingerprint, str):
            raise UsageError(f"fingerprint is {self.fingerprint!r}, expected that of a manifest, or None")
        check_flag("follow_links", self.follow_links)
        check_device(self.device, engine=self.engine)
