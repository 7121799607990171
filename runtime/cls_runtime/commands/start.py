"""Where the console scripts start: a signal is answered before a command's imports, which take longer than many a command.

Imports next to nothing, since until its handlers are there Ctrl-C is Python's to answer, with a traceback.
"""

from __future__ import annotations

import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

WORDS: dict[int, str] = {signal.SIGINT: "interrupted", signal.SIGTERM: "ended by SIGTERM"}
if hasattr(signal, "SIGHUP"):  # not on Windows
    WORDS[signal.SIGHUP] = "ended by SIGHUP"
LONGEST_REASON = 500


def cls_embed() -> int:
    """Runs `cls-embed` with the process's arguments and gives the exit code."""
    return own_process("cls_runtime.commands.embed")


def cls_verify() -> int:
    """Runs `cls-verify` likewise."""
    return own_process("cls_runtime.commands.verify")


def cls_bench() -> int:
    """Runs `cls-bench` likewise."""
    return own_process("cls_runtime.commands.bench")


def cls_doctor() -> int:
    """Runs `cls-doctor` likewise."""
    return own_process("cls_runtime.commands.doctor")


def cls_serve() -> int:
    """Runs `cls-serve` likewise."""
    return own_process("cls_runtime.commands.serve")


def own_process(module: str) -> int:
    """Imports a command's module and runs its `main`, in a process that is the command's alone; gives the exit code.

    A signal while it is imported, or after `main`, ends the process at once. So does one that `main` was ended by: whatever it was waiting
    for in another thread may never come.
    """
    for number in WORDS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, exit_at_once)
    from importlib import import_module

    try:
        main = import_module(module).main
    except Exception as error:  # noqa: BLE001  whatever a damaged installation raises
        reason = "out of memory" if isinstance(error, MemoryError) else " ".join(f"{type(error).__name__}: {error}".split())
        _say(f"error: {module} cannot be imported ({reason[:LONGEST_REASON]}); give the process more memory, or install cls-export again")
        return 2
    code: int = main()
    if code in map(exit_code, WORDS):
        os._exit(code)
    return code


def exit_code(number: int) -> int:
    """What a shell says of a process that the signal ended."""
    return 128 + number


def exit_at_once(number: int, _frame: object = None) -> NoReturn:
    """Ends the process with one line; a signal's handler."""
    _say(f"error: {WORDS[number]}")
    os._exit(exit_code(number))


def _say(line: str) -> None:
    """Writes to standard error past Python's own stream, which another thread may be writing to."""
    try:
        os.write(2, f"{line}\n".encode(errors="backslashreplace"))
    except OSError:
        return
