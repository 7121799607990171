"""Runs share a GPU with each other, and none of them with a capture.

ONNX Runtime captures in CUDA's global mode: while one thread captures, a call of any other thread of the process that might synchronize or
allocate fails, and the capture with it. So a capture waits until no run is under way, and runs wait until it is done, a few milliseconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class CaptureLock:
    """Held by any number of runs, or by one capture. A capture that waits goes before runs that come after it."""

    def __init__(self) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._runs = 0
        self._captures = 0  # that wait or are under way
        self._capturing = False

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """For the time of a run. Not within another one: a capture may wait between the two."""
        with self._changed:
            while self._captures:
                self._changed.wait()
            self._runs += 1
        try:
            yield
        finally:
            with self._changed:
                self._runs -= 1
                if not self._runs and self._captures:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """For the time of a capture."""
        with self._changed:
            self._captures += 1
            while self._runs or self._capturing:
                self._changed.wait()
            self._capturing = True
        try:
            yield
        finally:
            with self._changed:
                self._captures -= 1
                self._capturing = False
                self._changed.notify_all()


# CUDA's mode is the process's, so the lock is too: for all engines on all GPUs.
PROCESS = CaptureLock()
