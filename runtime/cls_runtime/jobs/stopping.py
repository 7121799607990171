"""SIGINT, SIGTERM and SIGHUP during a job: the work so far is saved before the process ends."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")
_SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class _StopNow(BaseException):
    """Leaves the wait for the next block. Not an Exception: it must pass through every handler."""


class StopSignals:
    """A context manager that turns the first of these signals into the end of `until_stopped`; a second one acts as it would have before.

    Elsewhere than in the main thread signals are left alone; so is a signal that is ignored.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._waiting = False
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in _SIGNALS}
            # None: a handler that is not Python's, and could not be put back.
            self._previous = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
            for number in self._previous:
                signal.signal(number, self._handle)
        return self

    @property
    def behind(self) -> Any:
        """What handles the signals without this class; None once it does again."""
        return next(iter(self._previous.values()), None)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()
        if isinstance(error, _StopNow):  # it arrived in the very moment in which the wait ended
            self.pass_on()

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
