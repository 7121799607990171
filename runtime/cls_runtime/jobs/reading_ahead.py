"""Runs an iterator in another thread, a few items ahead of whoever uses them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
AHEAD = 8


def read_ahead(items: Iterator[T]) -> Generator[T, None, None]:
    """The same items, and the same exceptions at the same place. Closing it waits for the item that is being read."""
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="cls-reader") as thread:
        waiting: deque[Future[object]] = deque()
        try:
            for _ in range(AHEAD):
                waiting.append(thread.submit(next, items, end))
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, items, end))
                yield item  # type: ignore[misc]  # not `end`, so a T
        finally:
            for future in waiting:
                future.cancel()
