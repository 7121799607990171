"""`cls-serve`: bundles behind HTTP, for the clients of OpenAI, TEI, Cohere and Jina."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from cls_runtime.commands import shell
from cls_runtime.commands.bundle_options import BUNDLE_HELP
from cls_runtime.errors import MissingExtraError
from cls_runtime.serving.options import ServeOptions

_EXAMPLES = [("cls-serve models/my-model", "on http://127.0.0.1:8080")]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `cls-serve` with `argv` (default: the process's arguments) and gives the exit code."""
    return shell.run_command(_parser(), _run, argv)


def _parser() -> argparse.ArgumentParser:
    parser = shell.command_parser("cls-serve", "Serves bundles over HTTP.", examples=_EXAMPLES)
    parser.add_argument("bundles", metavar="BUNDLE", nargs="+", help=BUNDLE_HELP)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--variant", default="auto")
    parser.add_argument("--threads", type=int)
    return parser


def _run(arguments: argparse.Namespace) -> int:
    try:
        from cls_runtime.serving.server import serve
    except ImportError as error:
        raise MissingExtraError(f"{error.name} is not installed; run: pip install 'cls-export[serve]'") from None
    return serve(
        ServeOptions(
            bundles=tuple(arguments.bundles), host=arguments.host, port=arguments.port, variant=arguments.variant, threads=arguments.threads
        )
    )


if __name__ == "__main__":
    sys.exit(main())
