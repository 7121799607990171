"""Runs share a GPU with each other, and none of them with a capture.

ONNX Runtime captures in CUDA's global mode: while one thread captures, a call of any other thread of the process that might synchronize,
allocate or free fails, and the capture with it. So a capture waits until nothing else is under way, and the others wait until it is done,
a few milliseconds.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

# Runs wait behind a capture that waits for earlier ones. Those take tenths of a second, so one that never ends, such as a run whose thread
# was stopped in it, must not hold up all others for good.
_PATIENCE_S = 20.0


class CaptureLock:
    """Held by any number of runs and loads, or by one capture. A capture that waits goes before runs that come after it."""

    def __init__(self, *, patience_s: float = _PATIENCE_S) -> None:
        self._changed = threading.Condition(threading.Lock())
        self._patience_s = patience_s
        self._runs = 0
        self._loads = 0
        self._captures = 0  # that wait for runs or are under way

    @contextlib.contextmanager
    def run(self) -> Iterator[None]:
        """For the time of a run, or of freeing what a session holds. Not within another one: a capture may wait between the two."""
        with self._changed:
            while self._captures:
                self._changed.wait()
            self._runs += 1
        try:
            yield
        finally:
            with self._changed:
                self._runs -= 1
                if not self._runs:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """For the time of loading a graph, which takes seconds: a capture waits for it, and runs go on meanwhile."""
        with self._changed:
            while self._captures:
                self._changed.wait()
            self._loads += 1
        try:
            yield
        finally:
            with self._changed:
                self._loads -= 1
                if not self._loads:
                    self._changed.notify_all()

    @contextlib.contextmanager
    def capture(self) -> Iterator[None]:
        """For the time of a capture.

        Raises:
            TimeoutError: a run that began before does not end.
        """
        with self._changed:
            while self._loads or self._captures:
                self._changed.wait()
            self._captures = 1
        try:
            with self._changed:
                if not self._changed.wait_for(lambda: not self._runs, self._patience_s):
                    raise TimeoutError(f"a run is under way for {self._patience_s:g} s, and nothing may run beside a capture")
            yield
        finally:
            with self._changed:
                self._captures = 0
                self._changed.notify_all()


# CUDA's mode is the process's, so the lock is too: for all engines on all GPUs.
PROCESS = CaptureLock()
