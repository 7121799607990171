"""The arguments of every command: `--help` with examples, what was probably meant, and the options that all commands have."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from cls_runtime import __version__
from cls_runtime.commands import shell
from cls_runtime.commands.completion import add_print_completion
from cls_runtime.suggestions import did_you_mean

HELP_WIDTH = 100
EXIT_CODES = (
    ("0", "done"),
    ("1", "a check failed"),
    ("2", "wrong usage, unsupported or unsafe input, a missing package, or a bug"),
    ("130, 143, 129", "ended by Ctrl-C, SIGTERM or SIGHUP"),
    ("141", "standard output was closed by its reader"),
)
VARIABLES = (
    ("NO_COLOR", "set to anything: no colours on a terminal"),
    (shell.TRACEBACK_VARIABLE, "set to 1: show the traceback of an unexpected error, for a bug report"),
)


def _whole_number(text: str) -> int:
    """What `type=int` reads, with an error in our words."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"found {text!r}, expected a whole number") from None


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, like every other error of a command.

    Args:
        prog: the command's name.
        description: what it does, for `--help`.
        epilog: what `--help` ends with.
        examples: lines of examples; all that is printed if a command is called without any arguments.
        works_alone: whether the command does something without arguments.
        intermixed: whether positional arguments may come before, between and after options.
    """

    def __init__(self, *, prog: str, description: str, epilog: str, examples: str, works_alone: bool, intermixed: bool) -> None:
        super().__init__(
            prog=prog,
            description=textwrap.fill(description, HELP_WIDTH),
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.register("type", int, _whole_number)
        self._examples = examples
        self._works_alone = works_alone
        self._intermixed = intermixed

    def parse_args(  # type: ignore[override]  # argparse's overloads say the same
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        """The arguments; ends with exit code 2 if they are wrong."""
        args = sys.argv[1:] if args is None else list(args)
        if not args and not self._works_alone:
            self.exit(shell.EXIT_USAGE, f"{self.description}\n\n{self._examples}\n\nSee {self.prog} --help for every option.\n")
        self._refuse_unknown_options(args)
        parse = self.parse_known_intermixed_args if self._intermixed else self.parse_known_args
        arguments, rest = parse(args, namespace)
        if rest:
            self.error(f"unexpected argument: {rest[0]}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Ends with exit code 2."""
        shell.say_error(f"{message}; see {self.prog} --help")
        self.exit(shell.EXIT_USAGE)

    def _refuse_unknown_options(self, args: Sequence[str]) -> None:
        """Before argparse, which would first complain of other arguments that are missing, and repeat the value of the option."""
        known = self._option_string_actions
        if {"-h", "--help", "--version"} & {*args}:
            return
        for argument in args:
            if argument == "--":
                return
            name = argument.partition("=")[0]
            if name.startswith("--") and " " not in argument and name not in known:
                shown = [option for option, action in known.items() if action.help != argparse.SUPPRESS]
                self.error(f"unknown option {name}{did_you_mean(name, shown)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """argparse's own suggests nothing."""
        if action.choices is not None and value not in action.choices:
            choices = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"expected one of {', '.join(choices)}, found {str(value)!r}{did_you_mean(str(value), choices)}"
            )

    def _print_message(self, message: str, file: Any = None) -> None:
        """argparse's own says nothing where the help cannot be written."""
        (file or sys.stderr).write(message)


def command_parser(
    prog: str,
    description: str,
    *,
    examples: Sequence[tuple[str, str]],
    json_file: bool = False,
    works_alone: bool = False,
    intermixed: bool = False,
    exit_codes: Iterable[tuple[str, str]] = EXIT_CODES,
    variables: Iterable[tuple[str, str]] = (),
    notes: str = "",
) -> CommandParser:
    """A parser with `--help`, `--version`, `--print-completion`, `--quiet` and `--json`.

    Args:
        prog: the command's name.
        description: what it does, for `--help`.
        examples: (command line, what it does).
        json_file: `--json FILE` writes the document to a file; `--json` alone and `--json -` print it, as in every other command.
        works_alone: whether it does something without arguments; otherwise it prints the examples then.
        intermixed: whether positional arguments may come before, between and after options.
        exit_codes: (code, meaning), where they are not those of all commands.
        variables: (environment variable, what it does), besides those of all commands.
        notes: what else `--help` says, before the examples.
    """
    shown = _section("examples", examples)
    parser = CommandParser(
        prog=prog,
        description=description,
        epilog="\n\n".join(
            [
                *([textwrap.fill(notes, HELP_WIDTH)] if notes else []),
                shown,
                _section("environment variables", [*variables, *VARIABLES]),
                _section("exit codes", list(exit_codes)),
            ]
        ),
        examples=shown,
        works_alone=works_alone,
        intermixed=intermixed,
    )
    parser.add_argument("--version", action="version", version=f"{prog} {__version__}")
    add_print_completion(parser)
    parser.add_argument("--quiet", action="store_true", help="print errors and warnings only: no progress bar, no summary")
    if json_file:
        parser.add_argument(
            "--json", metavar="FILE", nargs="?", const="-", help="write one JSON document, for machines; without FILE or with -, print it"
        )
    else:
        parser.add_argument("--json", action="store_true", help="print one JSON document on standard output, for machines")
    return parser


def _section(title: str, rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in rows)
    return "\n".join([f"{title}:", *(f"  {name:<{width}}   {meaning}" for name, meaning in rows)])
