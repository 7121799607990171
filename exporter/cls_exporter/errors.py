"""What an export raises; the whole hierarchy is drawn in `cls_runtime.errors`."""

from __future__ import annotations

from cls_runtime.errors import CheckFailedError, ClsError


def one_line(error: BaseException) -> str:
    """What an error of a library says, on one line of at most 300 characters."""
    return " ".join(str(error).split())[:300]


class ExportError(ClsError):
    """The root of what an export raises."""


class CheckpointError(ExportError):
    """A checkpoint that cannot be read, or whose vectors would be silently wrong."""


class UnsupportedError(ExportError):
    """An architecture, a module or an option that is not supported."""


class GraphError(ExportError):
    """A rewrite that was expected did not happen, or a graph is not what it should be."""

    exit_code = 1


class ParityError(ExportError, CheckFailedError):
    """A variant's vectors miss a threshold; the message names the worst text."""

    exit_code = 1
