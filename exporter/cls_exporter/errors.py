"""What an export raises; the whole hierarchy is drawn in `cls_runtime.errors`."""

from __future__ import annotations

import contextlib
import reprlib
from collections.abc import Callable, Iterator

from cls_runtime.errors import CheckFailedError, ClsError, is_panic

_SHOWN = reprlib.Repr()
_SHOWN.maxlevel, _SHOWN.maxstring, _SHOWN.maxlong, _SHOWN.maxother = 3, 100, 40, 100
_SHOWN.maxdict = _SHOWN.maxlist = 4


def one_line(error: BaseException) -> str:
    """What an error of a library says, on one line of at most 300 characters; what a terminal acts on is written out."""
    text = " ".join(str(error)[:3000].split())[:300]
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)


def shown(value: object) -> str:
    """A value that a file gave, for a message: its `repr`, on one line and shortened in the middle where it is long."""
    return _SHOWN.repr(value)


class ExportError(ClsError):
    """The root of what an export raises."""


class CheckpointError(ExportError):
    """A checkpoint that cannot be read, or whose vectors would be silently wrong."""


@contextlib.contextmanager
def as_error(make: Callable[[str], Exception], *, hidden: str = "") -> Iterator[None]:
    """Whatever a library raises on a checkpoint's data becomes the error `make(reason)`; this project's own errors stay as they are.

    Libraries raise bare Exceptions for what they cannot parse, and one written in Rust panics with a BaseException of its own. What ends a
    program is neither. `hidden` is a temporary path that the reason does not show.
    """
    try:
        yield
    except ClsError:
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        reason = one_line(error).replace(hidden, "") if hidden else one_line(error)
        raise make(f"{type(error).__name__}: {reason}" if reason else type(error).__name__) from None


def as_checkpoint_error(describe: Callable[[str], str], *, hidden: str = "") -> contextlib.AbstractContextManager[None]:
    """`as_error` with a CheckpointError of the message `describe(reason)`."""
    return as_error(lambda reason: CheckpointError(describe(reason)), hidden=hidden)


class UnsupportedError(ExportError):
    """An architecture, a module or an option that is not supported."""


class GraphError(ExportError):
    """A rewrite that was expected did not happen, or a graph is not what it should be."""

    exit_code = 1


class ParityError(ExportError, CheckFailedError):
    """A variant's vectors miss a threshold; the message names the worst text."""

    exit_code = 1
