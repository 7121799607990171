"""Where the console script `cls-export` starts: a signal is answered before the command's imports."""

from __future__ import annotations

from cls_runtime.commands.start import own_process


def cls_export() -> int:
    """Runs `cls-export` with the process's arguments and gives the exit code."""
    return own_process("cls_exporter.command")
