"""Every error that this project raises on purpose.

    ClsError                     anything below; `exit_code` is what a command ends with
    ├── UsageError               an option or a combination that makes no sense (2)
    ├── MissingExtraError        a package is not installed; names the pip command (2)
    ├── BundleError              a bundle is missing, damaged, foreign or unsafe (2)
    │   ├── IntegrityError       a file's hash is not the one in the manifest (1)
    │   └── HubError             the hub does not give it, or does not take it (2)
    ├── EngineError              an engine or a provider is missing or failed (2)
    ├── TextError                a text that cannot be encoded; `index` says which (2)
    │   └── TextTooLongError     longer than the model takes, with on_overflow="raise" (2)
    ├── InvalidVectorError       a NaN, an infinity or a zero vector; `index` says which (1)
    ├── CheckFailedError         a parity or quality check failed (1)
    ├── OverloadedError          aencode, and too many texts are waiting already (2)
    ├── DeadlineError            aencode, and `timeout_s` passed before it was done (2)
    ├── ClosedError              an Encoder was used after close() (2)
    └── cls_exporter.ExportError (2)
        ├── CheckpointError      a checkpoint that cannot be read or would be silently wrong (2)
        ├── UnsupportedError     an architecture or a module that is not supported (2)
        ├── GraphError           a rewrite that was expected did not happen (1)
        └── ParityError          a variant misses its threshold; also a CheckFailedError (1)

Four warnings, all UserWarning: TruncationWarning (texts were cut, with on_overflow="warn"), DimensionsWarning (vectors were cut to a size
that the model does not name), InstallationWarning (packages that overwrite each other) and EngineWarning (it is right, and slower).

A message says what happened, what was found, what was expected and what to do next, on one line.
"""

from __future__ import annotations

import errno
from typing import ClassVar

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class ClsError(Exception):
    """The root of every deliberate error. `exit_code` is the process's exit code for it."""

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
    """The hub does not give a bundle, or does not take it: it is unknown, gated, not reached, or not in the cache."""


class EngineError(ClsError, RuntimeError):
    """An inference engine, or a provider of it, is missing or failed."""


class TextError(ClsError, ValueError):
    """A text that cannot be encoded; `index` is its place in the input, None where it has none."""

    def __init__(self, message: str, *, index: int | None = None) -> None:
        super().__init__(message)
        self.index = index


class TextTooLongError(TextError):
    """A text longer than the model takes, where the caller asked for an error."""


class InvalidVectorError(ClsError, ArithmeticError):
    """A vector that is NaN, infinite or all zero; `index` is the text's place in the input."""

    exit_code = 1

    def __init__(self, message: str, *, index: int) -> None:
        super().__init__(message)
        self.index = index


class CheckFailedError(ClsError):
    """A parity or quality check failed."""

    exit_code = 1


class OverloadedError(ClsError, RuntimeError):
    """More texts wait for `Encoder.aencode` than its queue takes; the request was refused, not queued."""


class DeadlineError(ClsError, TimeoutError):
    """`timeout_s` of `Encoder.aencode` passed before its last text was computed; what waited of it was dropped."""


class ClosedError(ClsError, RuntimeError):
    """An Encoder was used after close()."""


class TruncationWarning(UserWarning):
    """Texts were longer than the model takes and were cut; once for each call. `Encoder.last_report` says which."""


class DimensionsWarning(UserWarning):
    """Vectors were cut to a size that the model was not trained for, as far as its bundle says; once for each call."""


class InstallationWarning(UserWarning):
    """Installed packages that damage each other, though the engine still loads."""


class EngineWarning(UserWarning):
    """An engine computes the right vectors and cannot do so as fast as it should: a GPU had no memory for a batch, or records no graphs."""


def is_shortage(error: BaseException) -> bool:
    """Whether the process lacks memory or open files, which says nothing about the file that was being read."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _SHORTAGES)


def is_panic(error: BaseException) -> bool:
    """Whether a library's Rust code panicked, which is no Exception to Python, and so passes every handler."""
    return (type(error).__module__, type(error).__name__) == ("pyo3_runtime", "PanicException")


def is_refusal(error: BaseException) -> bool:
    """Whether a library says no to what it was given, with an Exception or a panic, and does not only lack memory or open files."""
    return is_panic(error) or (isinstance(error, Exception) and not is_shortage(error))
