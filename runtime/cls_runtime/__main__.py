"""`python -m cls_runtime COMMAND ...` runs a command where its console script is not on the PATH, such as `python -m cls_runtime embed`."""

from __future__ import annotations

import sys

from cls_runtime.commands.start import own_process

# What each command does, by the name of its module in `cls_runtime.commands`.
COMMANDS = {
    "embed": "turns texts into vectors",
    "verify": "checks a bundle, or compares two",
    "bench": "measures a bundle on this machine",
    "serve": "serves bundles over HTTP",
    "doctor": "shows what is installed and what works",
}
EXIT_USAGE = 2


def main(argv: list[str]) -> int:
    """Runs the command that `argv` names with the arguments behind it, and gives the exit code."""
    if not argv or argv[0] in ("-h", "--help"):
        (sys.stdout if argv else sys.stderr).write(listing())
        return 0 if argv else EXIT_USAGE
    name, *rest = argv
    command = name.removeprefix("cls-")
    if command not in COMMANDS:
        from cls_runtime.suggestions import did_you_mean

        sys.stderr.write(f"error: no command {name[:60]!a}{did_you_mean(command, COMMANDS)}; see python -m cls_runtime --help\n")
        return EXIT_USAGE
    sys.argv[1:] = rest
    return own_process(f"cls_runtime.commands.{command}")


def listing() -> str:
    """The commands, and how to run one."""
    commands = "\n".join(f"  {name:<7} {meaning}" for name, meaning in COMMANDS.items())
    return (
        f"usage: python -m cls_runtime COMMAND ...\n\n{commands}\n\n"
        "python -m cls_runtime COMMAND --help shows its options; python -m cls_exporter exports a checkpoint.\n"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
