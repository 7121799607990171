"""What every command does alike: errors as one line, exit codes, JSON, lines and tables. `commands/parsing.py` has the arguments.

Exit codes: 0 done; 1 a check failed; 2 wrong usage, unsupported or unsafe input, or a bug; 130 Ctrl-C, 143 ended by SIGTERM, 129 by SIGHUP,
141 standard output was closed by its reader (128 + the signal's number, as shells count).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cls_runtime.bundle.files import remove_unfinished
from cls_runtime.bundle.overwriting import refuse_overwriting
from cls_runtime.commands.colors import Color, colors_of_a_command, forbid_colors, painted
from cls_runtime.commands.ending import EndingSignals
from cls_runtime.commands.printable import printable
from cls_runtime.commands.standard_streams import standard_streams
from cls_runtime.commands.start import WORDS, exit_code
from cls_runtime.errors import ClsError, DimensionsWarning, EngineWarning, InstallationWarning, TruncationWarning, UsageError

EXIT_DONE, EXIT_CHECK_FAILED, EXIT_USAGE = 0, 1, 2
EXIT_BROKEN_PIPE = 141
TRACEBACK_VARIABLE = "CLS_EXPORT_TRACEBACK"


def run_command(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    """Parses `argv`, runs `command` and gives the exit code. Whatever goes wrong becomes one line on standard error."""
    signals = EndingSignals(remove_unfinished)
    with standard_streams(), colors_of_a_command():
        try:
            with signals, _warnings_as_lines():
                return _run(parser, command, argv)
        except SystemExit:
            raise
        except BaseException as error:  # noqa: BLE001  a library's own kind may not even be an Exception; nothing passes as a traceback
            if signals.received is not None:  # whatever a library made of the interruption
                return _fail(WORDS[signals.received], exit_code(signals.received))
            return _failed(error)


def _run(parser: argparse.ArgumentParser, command: Callable[[argparse.Namespace], int], argv: Sequence[str] | None) -> int:
    try:
        arguments = parser.parse_args(argv)
    except SystemExit as finished:  # argparse has printed its help, its version or its error
        sys.stdout.flush()
        return finished.code if isinstance(finished.code, int) else EXIT_USAGE
    if getattr(arguments, "json", None):
        forbid_colors()
    code = command(arguments)
    sys.stdout.flush()
    return code


def _failed(error: BaseException) -> int:
    """Says what went wrong and gives the exit code for it."""
    if isinstance(error, BrokenPipeError):
        return EXIT_BROKEN_PIPE
    if isinstance(error, ClsError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, KeyboardInterrupt):
        return _fail(WORDS[signal.SIGINT], exit_code(signal.SIGINT))
    if isinstance(error, MemoryError):
        return _fail(
            f"out of memory{f' ({error})' if str(error) else ''}; give the process more memory, or less work at a time", EXIT_USAGE
        )
    if isinstance(error, OSError):
        return _fail(_of_the_system(error), EXIT_USAGE)
    if os.environ.get(TRACEBACK_VARIABLE):
        traceback.print_exception(error)
    return _fail(
        f"unexpected {type(error).__name__}{f' ({error})' if str(error) else ''}; this is a bug, please report it with the traceback that "
        f"{TRACEBACK_VARIABLE}=1 in the environment shows",
        EXIT_USAGE,
    )


def _of_the_system(error: OSError) -> str:
    """What the system refused, and where."""
    if error.filename:
        return f"{error.filename}: {error.strerror or error}"
    if isinstance(error, FileNotFoundError) and _is_nowhere():
        return "the working directory no longer exists; change to another, or use absolute paths"
    words = error.strerror or str(error)
    if words.startswith("No usable temporary directory"):  # as tempfile says it, which names no way out
        return f"{words}; set TMPDIR to a folder that can be written"
    return words


def _is_nowhere() -> bool:
    """Whether the process's working directory is gone, which is what an error that names no file complains of."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """Options that would do nothing without something else; a row of a command's table.

    Attributes:
        options: as they are typed, also with a value (`--engine ray`). Whoever does not give one has None there, or False for a switch.
        need: what they go with, and why, in words.
        is_met: whether the arguments have it.
        instead: what they have in its place, in words.
    """

    options: tuple[str, ...]
    need: str
    is_met: Callable[[argparse.Namespace], bool]
    instead: Callable[[argparse.Namespace], str]


def check_requirements(arguments: argparse.Namespace, table: Sequence[Requirement]) -> None:
    """Refuses options that would do nothing.

    Raises:
        UsageError: one is given without what it needs.
    """
    for row in table:
        given = [option for option in row.options if _is_given(arguments, option)]
        if given and not row.is_met(arguments):
            verb = "goes" if len(given) == 1 else "go"
            raise UsageError(f"{', '.join(given)} {verb} with {row.need}; found {row.instead(arguments)}")


def _is_given(arguments: argparse.Namespace, option: str) -> bool:
    name, _, value = option.partition(" ")
    actual = getattr(arguments, name.removeprefix("--").replace("-", "_"))
    return str(actual) == value if value else actual is not None and actual is not False


def say(text: str = "", *, color: Color | None = None, colored: int | None = None) -> None:
    """Prints a line on standard output, whatever characters its encoding lacks. Empty lines may come before it.

    Args:
        text: the line.
        color: of the line on a terminal; None for none.
        colored: how many of its first characters have the color; None for all.
    """
    line = text.lstrip("\n")
    head, rest = (line, "") if colored is None else (line[:colored], line[colored:])
    head, rest = printable(head), printable(rest)
    text = "\n" * (len(text) - len(line)) + (head if color is None else painted(head, color, sys.stdout)) + rest
    try:
        print(text)
    except UnicodeEncodeError:
        encoding = sys.stdout.encoding or "ascii"
        print(text.encode(encoding, "backslashreplace").decode(encoding))


def warn(text: str) -> None:
    """Prints a `warning:` line on standard error."""
    print(f"{painted('warning:', 'yellow', sys.stderr)} {printable(text)}", file=sys.stderr)


def say_error(text: str) -> None:
    """Prints an `error:` line on standard error."""
    print(f"{painted('error:', 'red', sys.stderr)} {printable(' '.join(text.split()))}", file=sys.stderr)


def print_json(document: Any) -> None:
    """Prints one JSON document. ASCII only, so that it survives any terminal and any pipe."""
    print(json.dumps(document, indent=2, allow_nan=False))


def check_writable(path: Path, option: str, *, files: Iterable[str | Path] = (), folders: Iterable[Path] = ()) -> None:
    """Finds out before any work whether `path`, the value of `option`, can be written later. A symbolic link stands for what it points to.

    Args:
        path: where to.
        option: which option it is the value of.
        files: that the command reads, as `refuse_overwriting` takes them.
        folders: that must stay as they are.

    Raises:
        UsageError: its folder does not exist or cannot be written to, it is a folder itself, or one of `files` or in one of `folders`.
    """
    refuse_overwriting(path, what=f"{option} {path}", files=files, folders=folders)
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder, expected a file's name")
    folder = Path(os.path.realpath(path)).parent
    if not folder.is_dir():
        raise UsageError(f"{option} {path}: the folder {folder if path.is_symlink() else path.parent} does not exist; make it first")
    if path.exists() and not path.is_file():
        return  # a device or a pipe, which nothing is made beside
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path}: the folder {folder} cannot be written to ({error.strerror}); choose another") from None


def shorten(text: str, limit: int = 60) -> str:
    """A text as one quoted, printable line."""
    return repr(text if len(text) <= limit else f"{text[: limit - 1]}…")


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells as indented lines, each column as wide as its longest cell."""
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


@contextlib.contextmanager
def _warnings_as_lines() -> Iterator[None]:
    """Shows Python's warnings as `warning:` lines, without the place in the code that means nothing to a user."""

    def show(message: Warning | str, *_: object) -> None:
        warn(" ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.simplefilter("default", TruncationWarning)
        warnings.simplefilter("default", DimensionsWarning)
        warnings.simplefilter("default", InstallationWarning)
        warnings.simplefilter("default", EngineWarning)
        warnings.showwarning = show  # type: ignore[assignment]  # where in the code it came from is not shown
        yield


def _fail(message: str, code: int) -> int:
    say_error(message)
    return code
