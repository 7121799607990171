"""What every command that loads an engine says of it: the names that `--engine` takes, and `--device`."""

from __future__ import annotations

import argparse

from cls_runtime.commands import shell
from cls_runtime.engines.choice import TAKEN_OUT, check_engine
from cls_runtime.engines.devices import GPU_ENGINES
from cls_runtime.errors import UsageError

# Of a --device that does nothing: no engine computes on a GPU unless it is named.
DEVICE_NEEDS_GPU_ENGINE = shell.Requirement(
    options=("--device",),
    need=f"--engine {' or '.join(GPU_ENGINES)}, which computes on a GPU",
    is_met=lambda arguments: any(engine in GPU_ENGINES for engine in _named(arguments)),
    instead=lambda arguments: " ".join(f"--engine {engine}" for engine in _named(arguments)) or "no --engine",
)


def engine_name(text: str) -> str:
    """An engine's name as argparse takes it: of one that was taken out, its error says so."""
    if text in TAKEN_OUT:
        try:
            check_engine(text)
        except UsageError as error:
            raise argparse.ArgumentTypeError(str(error)) from None
    return text


def add_device(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """Adds `--device`."""
    parser.add_argument(
        "--device",
        metavar="N",
        help="with --engine cuda: the GPU to use, such as 1; several that share the work, such as 0,1; or all (default: the first)",
    )


def _named(arguments: argparse.Namespace) -> list[str]:
    named = arguments.engine
    return list(named) if isinstance(named, list) else [named] if named is not None else []
