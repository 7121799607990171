"""Every error that this project raises on purpose.

    ClsError                     all of these; `exit_code` is a command's exit code
    ├── UsageError               an option or a combination that makes no sense (2)
    ├── MissingExtraError        a package is not installed; names the pip command (2)
    ├── BundleError              a bundle is missing, damaged, foreign or unsafe (2)
    │   ├── IntegrityError       a file's hash differs from the manifest (1)
    │   └── HubError             a download from or an upload to the hub failed (2)
    ├── EngineError              an engine or a provider is missing or failed (2)
    ├── TextError                a text that cannot be encoded; `index` says which (2)
    │   └── TextTooLongError     longer than the model takes, with on_overflow="raise" (2)
    ├── InvalidVectorError       a NaN, an infinity or a zero vector; `index` says which (1)
    ├── CheckFailedError         a parity or quality check failed (1)
    ├── OverloadedError          aencode: too many texts are waiting (2)
    ├── DeadlineError            aencode: `timeout_s` passed (2)
    ├── ClosedError              an Encoder was used after close() (2)
    └── cls_exporter.ExportError (2)
        ├── CheckpointError      a checkpoint cannot be read, or its vectors would be wrong (2)
        ├── UnsupportedError     an unsupported architecture or module (2)
        ├── GraphError           an expected rewrite of the graph did not happen (1)
        └── ParityError          a variant misses its threshold; also a CheckFailedError (1)

Four warnings, all UserWarning: TruncationWarning (texts were truncated, with on_overflow="warn"), DimensionsWarning (vectors were cut to a
size that the model does not name), InstallationWarning (packages overwrite each other) and EngineWarning (right vectors, but slower).

A message says what happened, what was found, what was expected and what to do next, on one line.
"""

from __future__ import annotations

import errno
from typing import ClassVar

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ClsError(Exception):
    """The base class of every error that this project raises on purpose. `exit_code` is the exit code of a command that fails with it."""

    exit_code: ClassVar[int] = 2


class UsageError(ClsError, ValueError):
    """An option, or a combination of options, that makes no sense."""


class MissingExtraError(ClsError, ImportError):
    """A package that this feature needs is not installed; the message names the pip command."""


class BundleError(ClsError):
    """A bundle is missing, damaged, of another format, or unsafe to read."""


class IntegrityError(BundleError):
    """A file of the bundle does not have the hash that the manifest records."""

    exit_code = 1


class HubError(BundleError):
    """A bundle cannot be downloaded from the hub or uploaded: it is unknown, gated, unreachable, or not in the cache."""


class EngineError(ClsError, RuntimeError):
    """An inference engine, or one of its providers, is missing or failed."""


class TextError(ClsError, ValueError):
    """A text cannot be encoded; `index` is its place in the input, or None."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TextTooLongError(TextError):
    """A text exceeds the model's maximum, with `on_overflow="raise"`."""


class InvalidVectorError(ClsError, ArithmeticError):
    """A vector is NaN, infinite or all zero; `index` is the text's place in the input."""

    exit_code = 1

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class CheckFailedError(ClsError):
    """A parity or quality check failed."""

    exit_code = 1


class OverloadedError(ClsError, RuntimeError):
    """The queue of `Encoder.aencode` is full; the request was refused, not queued."""


class DeadlineError(ClsError, TimeoutError):
    """`timeout_s` of `Encoder.aencode` passed before its last text was computed; the rest of it was dropped."""


class ClosedError(ClsError, RuntimeError):
    """An Encoder was used after close()."""


class TruncationWarning(UserWarning):
    """Texts exceeded the model's maximum and were truncated; one warning per call. `Encoder.last_report` lists them."""


class DimensionsWarning(UserWarning):
    """Vectors were cut to a size that the bundle does not name as trained for; one warning per call."""


class InstallationWarning(UserWarning):
    """Installed packages overwrite each other, although the engine still loads."""


class EngineWarning(UserWarning):
    """An engine computes the right vectors, but slower than it should: a GPU had no memory for a batch, or records no graphs."""


def is_shortage(error: BaseException) -> bool:
    """Whether the process lacks memory or open files, which says nothing about the file that was being read."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGES)


def is_panic(error: BaseException) -> bool:
    """Whether a library's Rust code panicked, which is no Exception to Python, and so passes every handler."""
    return (type(error).__module__, type(error).__name__) == ("pyo3_runtime", "PanicException")


def is_refusal(error: BaseException) -> bool:
    """Whether a library says no to what it was given, with an Exception or a panic, and does not only lack memory or open files."""
    return is_panic(error) or (isinstance(error, Exception) and not is_shortage(error))
