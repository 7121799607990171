"""The argument BUNDLE of every command that loads one, and the options that go with it."""

from __future__ import annotations

import argparse
import os

from cls_runtime.bundle.places import with_revision

BUNDLE_HELP = "a folder made by cls-export, or a bundle on the hub: org/name or org/name@revision"


def add_bundle(parser: argparse.ArgumentParser, *, optional: str = "") -> None:
    """Adds BUNDLE; with `optional` it may be left out, and this is what its help says more."""
    parser.add_argument("bundle", metavar="BUNDLE", nargs="?" if optional else None, help=f"{BUNDLE_HELP}{optional}")


def add_bundle_options(parser: argparse.ArgumentParser) -> None:
    """Adds `--revision` and `--follow-links`."""
    add_revision(parser)
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="follow symbolic links out of BUNDLE, such as those of stow and nix (default: refuse them, except in the hub's cache)",
    )


def add_revision(parser: argparse.ArgumentParser) -> None:
    """Adds `--revision`."""
    parser.add_argument("--revision", metavar="REV", help="the branch, tag or commit of BUNDLE on the hub (default: main)")


def bundle_name(arguments: argparse.Namespace) -> str:
    """BUNDLE as everything that loads a bundle takes it, `--revision` in it.

    Raises:
        UsageError: BUNDLE is a folder and has no revisions, or names another one.
    """
    return os.fspath(with_revision(arguments.bundle, arguments.revision, option="--revision"))
