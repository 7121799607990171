"""Completion scripts for shells, which shtab makes from a command's parser."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from cls_runtime.errors import MissingExtraError

SHELLS = ("bash", "zsh", "fish")
# What an argument takes, by the name that its help has for the value.
_FILES = frozenset({"FILE", "FILE.npy", "INPUT", "OUT", "PATH"})
_FOLDERS = frozenset({"BUNDLE", "DIR", "MODEL"})


class PrintCompletion(argparse.Action):
    """`--print-completion SHELL`: prints the script on standard output and ends the command."""

    def __call__(
        self, parser: argparse.ArgumentParser, _namespace: object, values: str | Sequence[Any] | None, _option: object = None
    ) -> None:
        """What argparse calls."""
        print(completion_script(parser, str(values)))
        parser.exit()


def completion_script(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that completes a command's options, choices, files and folders in `shell`, one of `SHELLS`.

    Raises:
        MissingExtraError: shtab is not installed.
    """
    try:
        import shtab
    except ImportError:
        raise MissingExtraError("shtab is not installed; run: pip install 'cls-export[completion]'") from None
    for action in parser._actions:  # noqa: SLF001  argparse has no other list of its arguments
        if action.metavar in _FILES | _FOLDERS:
            action.complete = shtab.FILE if action.metavar in _FILES else shtab.DIRECTORY  # type: ignore[attr-defined]  # what shtab looks for
    script: str = shtab.complete(parser, shell=shell)
    return script


def add_print_completion(parser: argparse.ArgumentParser) -> None:
    """Adds `--print-completion`."""
    parser.add_argument(
        "--print-completion",
        action=PrintCompletion,
        choices=SHELLS,
        help="print a script that completes this command's arguments in that shell; needs cls-export[completion]",
    )
