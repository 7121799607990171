"""The list of rows that could not be read: a JSON object a line, its row and the reason. How it is written, and how it is recognized."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.jobs.rows import SkippedRow

_LONGEST_LINE_BYTES = 2**20


def skipped_lines(skipped: Iterable[SkippedRow]) -> bytes:
    """The rows that could not be read, a JSON object a line."""
    lines = [json.dumps({"row": item.row, "reason": item.reason}, ensure_ascii=False) for item in skipped]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace")


def is_skipped_list(path: Path) -> bool:
    """Whether a file is such a list, from the first line to the last; a link or an empty file is none.

    Raises:
        OSError: it cannot be read.
    """
    # os.path says so too of a name that is too long to be a file's, as that of a list beside a long name is.
    if os.path.islink(path) or not os.path.isfile(path):  # noqa: PTH113, PTH114
        return False
    with path.open("rb") as file:
        return holds_skipped_list(file)


def holds_skipped_list(file: io.BufferedReader) -> bool:
    """The same of an open file."""
    empty = True
    while line := file.readline(_LONGEST_LINE_BYTES):
        if not _is_line(line):
            return False
        empty = False
    return not empty


def check_list_place(path: Path, *, what: str) -> None:
    """Refuses a place for a list where somebody else's file is.

    Raises:
        UsageError: something is there and is not such a list.
    """
    if (path.exists() or path.is_symlink()) and not is_skipped_list(path):
        raise UsageError(f"{what} would list unreadable rows in {path}, which exists and is not such a list; move it away")


def _is_line(line: bytes) -> bool:
    try:
        item: Any = json.loads(line)
    except (ValueError, RecursionError):
        return False
    if not isinstance(item, dict) or set(item) != {"row", "reason"}:
        return False
    return type(item["row"]) is int and item["row"] >= 0 and isinstance(item["reason"], str)
