"""Runs an iterator in another thread, a few items ahead of whoever uses them."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")
AHEAD = 8
# How long closing waits for the item that is being read. A pipe that nobody writes to would keep it for ever.
CLOSING_SECONDS = 1.0


@dataclass(frozen=True)
class _Read(Generic[T]):
    """What came of a reading: an item; or, as the last one, the error in its place, None at the end."""

    items: tuple[T, ...] = ()
    error: BaseException | None = None


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, and the same exceptions at the same place.

    Closing it waits for the item that is being read, but not for one that does not come: the thread is then left behind, and does not keep
    the process from ending. Where no thread can be started, nothing is read ahead.
    """
    results: queue.Queue[_Read[T]] = queue.Queue()
    room = threading.Semaphore(AHEAD)
    closed = threading.Event()

    def read() -> None:
        try:
            while room.acquire() and not closed.is_set():
                results.put(_Read((next(items),)))
        except StopIteration:
            results.put(_Read())
        except BaseException as error:  # noqa: BLE001  whoever takes the items gets it
            results.put(_Read(error=error))

    thread = threading.Thread(target=read, name="cls-reader", daemon=True)
    try:
        thread.start()
    except RuntimeError:  # the system has no more of them
        yield from items
        return
    try:
        while (result := results.get()).items:
            room.release()
            yield result.items[0]
        if result.error is not None:
            raise result.error
    finally:
        closed.set()
        room.release()
        thread.join(CLOSING_SECONDS)
