"""How far a job is: a line that changes on a terminal, a line a minute in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from cls_runtime.jobs.rows import Counts

TERMINAL_SECONDS = 0.5
LOG_SECONDS = 60.0


class JobProgress:
    """A context manager around the work; reports on `stream` (default: standard error).

    Args:
        done_before: rows that an earlier run has done.
        total: rows in all, None where unknown.
        stream: where to.
    """

    def __init__(self, *, done_before: int = 0, total: int | None = None, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._done_before = done_before
        self._total = total
        self._every = TERMINAL_SECONDS if self._terminal else LOG_SECONDS
        self._fraction: float | None = None
        self._fraction_at_start: float | None = None
        self.counts = Counts()
        self._start = self._shown = time.monotonic()
        self._end: float | None = self._start

    def __enter__(self) -> JobProgress:
        self._start = self._shown = time.monotonic()
        self._end = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end = time.monotonic()
        if self._terminal:
            self._write("\r\x1b[K")

    @property
    def seconds(self) -> float:
        """How long the work took, so far."""
        return (time.monotonic() if self._end is None else self._end) - self._start

    def add(self, counts: Counts, *, fraction: float | None = None) -> None:
        """Counts rows as done; `fraction` is how much of the input was read, where the number of rows is unknown."""
        self.counts += counts
        if self._fraction_at_start is None:
            self._fraction_at_start = fraction
        self._fraction = fraction
        now = time.monotonic()
        if now - self._shown >= self._every:
            self._shown = now
            self._write(f"\r\x1b[K{self.line()}" if self._terminal else f"{self.line()}\n")

    def line(self) -> str:
        """The state in words: rows, rows/s, tokens/s, time left, truncated, duplicates, skipped."""
        seconds = max(self.seconds, 1e-9)
        counts = self.counts
        done = self._done_before + counts.read
        rate = counts.read / seconds
        share, left = self._share_and_left(done, rate)
        parts = [f"{done:,} rows{share}", f"{rate:,.0f} rows/s", f"{counts.tokens / seconds:,.0f} tokens/s", *left]
        parts += [f"{counts.truncated:,} truncated", f"{counts.duplicates:,} duplicates"]
        return ", ".join([*parts, f"{counts.skipped:,} skipped"] if counts.skipped else parts)

    def _share_and_left(self, done: int, rate: float) -> tuple[str, list[str]]:
        if self._total is not None:
            left = (self._total - done) / rate if rate else 0.0
            return f" of {self._total:,}", [f"{_clock(left)} left"]
        if self._fraction is None or self._fraction_at_start is None or self._fraction <= self._fraction_at_start:
            return "", []
        speed = (self._fraction - self._fraction_at_start) / self.seconds
        return f" ({self._fraction:.0%})", [f"{_clock((1 - self._fraction) / speed)} left"]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
