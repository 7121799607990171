"""The option of every command that loads BUNDLE."""

from __future__ import annotations

import argparse


def add_follow_links(parser: argparse.ArgumentParser) -> None:
    """Adds `--follow-links`."""
    parser.add_argument(
        "--follow-links",
        action="store_true",
        help="read BUNDLE's files wherever links in it lead, as in a tree of stow or nix (default: only within it, or the hub's cache)",
    )
