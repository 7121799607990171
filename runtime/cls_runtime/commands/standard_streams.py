"""A command's standard streams, which may be closed, full, or have nobody left who reads them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO, cast

from cls_runtime.bundle.files import named_when_full


class _Wrapped:
    """A stream, and whatever else it can do."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Named(_Wrapped):
    """Standard output; where it is full, the error says so."""

    def write(self, text: str) -> int:
        with named_when_full("standard output"):
            return self._stream.write(text)

    def flush(self) -> None:
        with named_when_full("standard output"):
            self._stream.flush()


class _Forgiving(_Wrapped):
    """Standard error that may be full, or have nobody left who reads it: what cannot be said is left out, and the work goes on."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            try:
                self._stream.write(text)
            except UnicodeEncodeError:
                self._stream.write(text.encode("ascii", "backslashreplace").decode())
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()


@contextlib.contextmanager
def standard_streams() -> Iterator[None]:
    """Gives the process the standard streams that its parent closed, and leaves none behind that cannot be written out.

    The next file to be opened would get a closed stream's number, and what libraries write to standard error would end up in it. Closed
    standard input stays None in `sys`: who reads it should hear that it is closed and not that it is empty.
    """
    for number in range(3):
        with contextlib.suppress(OSError):
            _open_if_closed(number)
    with contextlib.ExitStack() as stack:
        nowhere = stack.enter_context(open(os.devnull, "w", encoding="utf-8"))
        stack.enter_context(contextlib.redirect_stdout(cast("TextIO", _Named(sys.stdout or nowhere))))
        errors = sys.stderr or nowhere
        stack.enter_context(contextlib.redirect_stderr(cast("TextIO", _Forgiving(errors))))
        try:
            yield
        finally:
            _silence_if_unwritable(sys.stdout)
            _silence_if_unwritable(errors)


def _open_if_closed(number: int) -> None:
    try:
        os.fstat(number)
    except OSError:
        opened = os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free, which is this one
        os.set_inheritable(opened, True)


def _silence_if_unwritable(stream: TextIO) -> None:
    """The interpreter writes a stream out once more at exit; without this it would print an error then, and change the exit code."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, stream.fileno())
            os.close(descriptor)
