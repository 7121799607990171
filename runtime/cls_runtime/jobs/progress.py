"""How far a job is: a bar on a terminal, or a line that changes where tqdm is not installed; a line a minute in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from cls_runtime.jobs.rows import Counts
from cls_runtime.progress_bar import ProgressBar
from cls_runtime.quantities import duration, rate

TERMINAL_SECONDS = 0.5
LOG_SECONDS = 60.0


class JobProgress:
    """A context manager around the work; reports on `stream` (default: standard error).

    Args:
        done_before: rows that an earlier run has done.
        total: rows in all, None where unknown.
        bar: draw one on a terminal; False for the lines of a log there too.
        stream: where to.
    """

    def __init__(self, *, done_before: int = 0, total: int | None = None, bar: bool = True, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._changing = bar and self._stream.isatty()
        self._bar = ProgressBar(unit=" rows", total=total, done_before=done_before, scaled=True, shown=bar, stream=self._stream)
        self._done_before = done_before
        self._total = total
        self._fraction: float | None = None
        self._fraction_at_start: float | None = None
        self.counts = Counts()
        self._start = self._shown = time.monotonic()
        self._end: float | None = self._start

    def __enter__(self) -> JobProgress:
        self._bar.__enter__()
        self._start = self._shown = time.monotonic()
        self._end = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._end = time.monotonic()
        if self._bar.is_drawn:
            self._bar.__exit__(kind, error, trace)
        elif self._changing:
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
        if self._bar.is_drawn:
            self._bar.advance(counts.read, note=", ".join(self._computed()), total=self._rows_in_all())
            return
        now = time.monotonic()
        if now - self._shown >= (TERMINAL_SECONDS if self._changing else LOG_SECONDS):
            self._shown = now
            self._write(f"\r\x1b[K{self.line()}" if self._changing else f"{self.line()}\n")

    def line(self) -> str:
        """The state in words: rows, rows/s, tokens/s, time left, truncated, duplicates, skipped."""
        done = self._done_before + self.counts.read
        share, left = self._share_and_left(done, self.counts.read / max(self.seconds, 1e-9))
        tokens, *others = self._computed()
        return ", ".join([f"{done:,} rows{share}", rate(self.counts.read, self.seconds, "rows"), tokens, *left, *others])

    def _computed(self) -> list[str]:
        """What a bar of rows does not say."""
        counts = self.counts
        parts = [rate(counts.tokens, self.seconds, "tokens")]
        parts += [f"{counts.truncated:,} truncated", f"{counts.duplicates:,} duplicates"]
        return [*parts, f"{counts.skipped:,} skipped"] if counts.skipped else parts

    def _rows_in_all(self) -> int | None:
        """The total, or a guess of it from the share of the bytes that was read."""
        if self._total is not None or not self._fraction:
            return self._total
        return round((self._done_before + self.counts.read) / self._fraction)

    def _share_and_left(self, done: int, rows_per_second: float) -> tuple[str, list[str]]:
        if self._total is not None:
            left = (self._total - done) / rows_per_second if rows_per_second else 0.0
            return f" of {self._total:,}", [f"{duration(max(0.0, left))} left"]
        if self._fraction is None or self._fraction_at_start is None or self._fraction <= self._fraction_at_start:
            return "", []
        speed = (self._fraction - self._fraction_at_start) / self.seconds
        return f" ({self._fraction:.0%})", [f"{duration((1 - self._fraction) / speed)} left"]

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
