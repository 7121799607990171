"""Threads that work until they are told to end: by `close`, by the collection of whoever they work for, or at the interpreter's exit."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable

from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import EngineError

TRIED_THREADS = 16  # takes a millisecond


class Crew:
    """At most `most` threads. They hold what they work on, which the crew does not, so that it can be told to end when nobody else does.

    Attributes:
        told: what the threads wait on; it is notified when they should end.
        dismissed: whether they should.
    """

    def __init__(self, most: int, *, name: str) -> None:
        self.told = threading.Condition()
        self.dismissed = False
        self._most = most
        self._name = name
        self._process = os.getpid()
        self._threads: list[threading.Thread] = []
        # A thread that still ran an engine while the interpreter goes away would abort the process.
        weakref.finalize(self, _end, weakref.ref(self))

    @property
    def is_here(self) -> bool:
        """Whether this is the process that it was made in. After a fork there are no threads, and the lock may be held by one of them."""
        return os.getpid() == self._process

    @property
    def size(self) -> int:
        """How many threads there are."""
        return len(self._threads)

    def add(self, work: Callable[[], None]) -> bool:
        """Starts one more thread, unless there are as many as there may be, and says whether it did. Called with `told` held.

        Raises:
            EngineError: there is none yet, and none can be started.
        """
        if len(self._threads) == self._most:
            return False
        thread = threading.Thread(target=work, name=f"{self._name}-{len(self._threads)}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:
            if not self._threads:
                raise EngineError(f"no thread can be started ({error}); allow the process more threads") from error
            return False  # those that are there do it
        self._threads.append(thread)
        return True

    def dismiss(self) -> None:
        """Tells the threads to end when they have done what they are at, and does not wait."""
        if self.is_here:
            with self.told:
                self.dismissed = True
                self.told.notify_all()

    def end(self) -> None:
        """The same, and waits."""
        self.dismiss()
        if self.is_here:
            for thread in self._threads:
                if thread is not threading.current_thread():
                    thread.join()


def check_threads() -> None:
    """Finds out whether a thread can be started for each CPU (of many CPUs, for some), as the tokenizer's library will do.

    Where it cannot, it prints pages, and what it raises is not an Exception.

    Raises:
        EngineError: they cannot.
    """
    count = min(available_cpus(), TRIED_THREADS)
    done = threading.Event()
    started: list[threading.Thread] = []
    try:
        for _ in range(count):
            thread = threading.Thread(target=done.wait, daemon=True)
            thread.start()
            started.append(thread)
    except RuntimeError as error:
        raise EngineError(
            f"{count} threads are needed and {len(started)} can be started ({error}); let the process have more of them (ulimit -u, or the "
            "container's limit of processes)"
        ) from error
    finally:
        done.set()
        for thread in started:
            thread.join()


def _end(crew: weakref.ref[Crew]) -> None:
    """Ends a crew that is there still, at the interpreter's exit. One that was collected has no threads any more: they held it."""
    there = crew()
    if there is not None:
        there.end()
