"""How a command's process ends on SIGINT, SIGTERM and SIGHUP: at once, with one line, 128 + the signal's number, and nothing left behind.

- While a command is being imported there is nothing to clean up: the process just ends (`commands/start.py`).
- From then on the signal becomes a KeyboardInterrupt in the main thread, which unwinds the stack (`EndingSignals`).
- The main thread may be where no exception reaches it, as in an engine whose graph never ends, or clean up for ever. A thread watches for
  that, and ends a process that is a command's by force.

What the parent has told the process to ignore (nohup, a shell's `&`) stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any, NoReturn

from cls_runtime.commands.start import WORDS, exit_at_once

# How long the main thread may take to come to a signal, and to clean up. Only what is stuck takes longer; then the watching thread removes
# what is unfinished.
UNNOTICED_SECONDS = 5.0
CLEANING_SECONDS = 5.0
_LOOK_SECONDS = 0.1


@contextlib.contextmanager
def nothing_to_clean() -> Iterator[None]:
    """Lets a signal end the process at once meanwhile, where the process is a command's.

    For imports that take seconds: an exception in the middle of one may be swallowed there, or shown as a traceback.
    """
    active = [number for number in WORDS if _belongs_to_a_command(signal.getsignal(number))]
    handlers = {number: signal.signal(number, exit_at_once) for number in active}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


class EndingSignals:
    """A context manager that turns the first of the signals into a KeyboardInterrupt; `received` says which it was.

    Elsewhere than in the main thread signals are left alone.

    Args:
        clean_up: removes what is unfinished, from any thread. Called before the process is ended by force.
    """

    def __init__(self, clean_up: Callable[[], None]) -> None:
        self.received: int | None = None
        self.owned = False
        self._clean_up = clean_up
        self._previous: dict[int, Any] = {}
        self._cleaning_since: float | None = None
        self._swallowed = False
        self._watched = False

    def __enter__(self) -> EndingSignals:
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in WORDS}
            # None: a handler that is not Python's, and could not be put back.
            self._previous = {number: handler for number, handler in handlers.items() if handler not in (signal.SIG_IGN, None)}
            self.owned = exit_at_once in self._previous.values()
            for number in self._previous:
                signal.signal(number, self._unwind)
            if self.owned and os.name == "posix":
                self._watch()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _unwind(self, number: int, _frame: FrameType | None) -> None:
        if self._watched and self.received is not None:
            return  # a second one does no harm to the clean-up; if that hangs, the watch ends the process
        self.received = number
        self._cleaning_since = time.monotonic()
        raise KeyboardInterrupt

    def _watch(self) -> None:
        """Starts the watch. Where no thread can be started the command goes on without it."""
        # The interpreter writes each signal's number into the pipe as it arrives, whatever the main thread is doing.
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        try:
            threading.Thread(target=self._watch_over, args=(reader,), name="cls-signals", daemon=True).start()
        except RuntimeError:
            os.close(reader)
            os.close(writer)
            return
        self._watched = True
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))  # a child's signals are not this process's
        previous = sys.unraisablehook

        def hook(unraisable: Any) -> None:
            """Notices a KeyboardInterrupt in a finalizer or a callback, from where it would go no further."""
            if self.received is not None and unraisable.exc_type is KeyboardInterrupt:
                self._swallowed = True
            else:
                previous(unraisable)

        sys.unraisablehook = hook

    def _watch_over(self, reader: int) -> None:
        unnoticed: tuple[int, Any, float] | None = None  # a signal, the handler that has not run yet, and since when
        while True:
            waiting = unnoticed is not None or self._cleaning_since is not None
            ready, _, _ = select.select([reader], [], [], _LOOK_SECONDS if waiting else None)
            now = time.monotonic()
            if unnoticed is not None and signal.getsignal(unnoticed[0]) != unnoticed[1]:
                unnoticed = None  # a job saves what it has done, and passes the signal on
            for number in os.read(reader, 64) if ready else b"":
                if self._cleaning_since is None and _belongs_to_a_command(signal.getsignal(number)):
                    if unnoticed is not None:
                        self._end_by_force(number)
                    unnoticed = number, signal.getsignal(number), now
            if self._cleaning_since is not None:
                unnoticed = None
                if self._swallowed:
                    self._swallowed, self._cleaning_since = False, None
                    number, self.received = self.received or signal.SIGINT, None
                    os.kill(os.getpid(), number)
                elif now - self._cleaning_since > CLEANING_SECONDS:
                    self._end_by_force(self.received or signal.SIGINT)
            elif unnoticed is not None and now - unnoticed[2] > UNNOTICED_SECONDS:
                self._end_by_force(unnoticed[0])

    def _end_by_force(self, number: int) -> NoReturn:
        self._clean_up()
        exit_at_once(number, None)


def _belongs_to_a_command(handler: Any) -> bool:
    """Whether a signal's handler is one of ours, in a process that is a command's. A job's own answers for the command's behind it."""
    owner = getattr(handler, "__self__", None)
    behind = getattr(owner, "behind", None)
    return (isinstance(owner, EndingSignals) and owner.owned) or (behind is not None and _belongs_to_a_command(behind))
