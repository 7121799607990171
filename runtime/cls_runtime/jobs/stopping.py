"""SIGINT and SIGTERM during a job: the work so far is saved before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class _StopNow(BaseException):
    """Leaves the wait for the next block. Not an Exception: it must pass through every handler."""


class StopSignals:
    """A context manager that turns the first SIGINT or SIGTERM into the end of `until_stopped`; a second one acts as it would have before.

    Elsewhere than in the main thread signals are left alone.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def until_stopped(self, items: Iterator[T]) -> Iterator[T]:
        """The items, until a signal arrives. Waiting for an item is broken off; what the caller does with one is not."""
        while True:
            try:
                self._waiting = True
                if self.received is not None:
                    return
                item = next(items)
            except (_StopNow, StopIteration):
                return
            finally:
                self._waiting = False
            yield item

    def pass_on(self) -> None:
        """Lets the signal that was received, if any, act as it would have without this class."""
        self._restore()
        if self.received is not None:
            signal.raise_signal(self.received)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self.received = number
        self._restore()
        if self._waiting:
            self._waiting = False
            raise _StopNow

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
