"""A graph's file that is read a second time, when small batches have come: the same file, whatever has its name by then."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from pathlib import Path

from cls_runtime.bundle.folder import held_folder, path_for_libraries
from cls_runtime.errors import EngineError


class HeldGraph:
    """Holds the folder of a graph, where the system can, until it is closed or dropped. The bundle's own hold ends when it is loaded."""

    def __init__(self, graph: Path) -> None:
        stack = contextlib.ExitStack()
        self._path = stack.enter_context(held_folder(graph.parent)) / graph.name
        self._state = _state(graph)
        self._close = weakref.finalize(self, stack.close)

    @contextlib.contextmanager
    def path(self) -> Iterator[Path]:
        """A path to it, for a library that reads it meanwhile.

        Raises:
            EngineError: it was replaced or deleted, before or meanwhile.
        """
        self._check()
        with path_for_libraries(self._path) as path:
            yield path
        self._check()

    def close(self) -> None:
        """Lets the folder go."""
        self._close()

    def _check(self) -> None:
        if _state(self._path) != self._state:
            raise EngineError(f"{self._path.name} was replaced or deleted since it was loaded; load the bundle again")


def _state(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
