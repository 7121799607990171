"""What lies where a file should be when the file itself was not fetched: a Git LFS pointer, a saved web page, nothing at all."""

from __future__ import annotations

import os
import re

HEAD_BYTES = 512
# How each begins. Letters of either case, behind a byte order mark and blank space.
_BEGINNINGS = (
    (rb"version https://git-lfs\.github\.com/spec/", "is a Git LFS pointer, not the file; run git lfs pull"),
    (rb"/annex/objects/", "is a git-annex pointer, not the file; run git annex get"),
    (rb"<!doctype html|<html\b|<head\b|<!--", "is a saved web page (HTML), not the file; download the file itself"),
    (
        rb"(entry|repository) not found|invalid username or password",
        "is what the hub says for a file that it does not give; download it again",
    ),
    (rb"<\?xml\b", "is an XML page, such as a server's error, not the file; download the file itself"),
)


def stand_in(head: bytes) -> str | None:
    """What a file that begins with `head` is in place of its content, in words that follow its name; None where it may be the content.

    >>> stand_in(b"version https://git-lfs.github.com/spec/v1")
    'is a Git LFS pointer, not the file; run git lfs pull'
    """
    if not head:
        return "is empty; fetch it again"
    return next((words for beginning, words in _BEGINNINGS if re.match(rb"(?i)(\xef\xbb\xbf)?\s*(" + beginning + rb")", head)), None)


def stand_in_at(path: str | os.PathLike[str]) -> str | None:
    """The same for the regular file at `path`; None too where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return stand_in(file.read(HEAD_BYTES))
    except OSError:
        return None
