"""What is in an input file, in a few letters: enough to tell that it is not the file any more that a job began with."""

from __future__ import annotations

import hashlib
import os
import stat
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.jobs.filesystems import is_uri, opened_bytes
from cls_runtime.reading.changes import Stamp

PIECE_BYTES = 2**20
REMOTE_PIECES = 16


def file_stamp(name: str) -> Stamp | None:
    """The stamp of the file with this name now; None behind a URI, and for what is no file."""
    if is_uri(name):
        return None
    try:
        status = os.stat(name)  # noqa: PTH116  any name
    except (OSError, ValueError):
        return None  # whoever reads it will say so
    return Stamp.of(status) if stat.S_ISREG(status.st_mode) else None


def contents_sha256(name: str) -> tuple[int, str]:
    """A file's size, and the SHA-256 of all that is in it.

    Behind a URI, where reading is what costs, it is that of its beginning, its end and what lies at even distances between, `REMOTE_PIECES`
    pieces of `PIECE_BYTES` in all: a change that misses all of them is not seen.

    Raises:
        UsageError: it cannot be read.
    """
    if is_uri(name):
        with opened_bytes(name) as remote:
            return _of_pieces(remote)
    digest, size = hashlib.sha256(), 0
    buffer = bytearray(PIECE_BYTES)
    try:
        with open(name, "rb", buffering=0) as file:
            while count := file.readinto(buffer):
                digest.update(memoryview(buffer)[:count])
                size += count
    except OSError as error:
        raise UsageError(f"{name} cannot be read ({error.strerror})") from None
    return size, digest.hexdigest()


def _of_pieces(file: Any) -> tuple[int, str]:
    size = int(file.size())
    digest = hashlib.sha256()
    last = max(0, size - PIECE_BYTES)
    for start in sorted({last * place // (REMOTE_PIECES - 1) for place in range(REMOTE_PIECES)}):
        file.seek(start)
        digest.update(file.read(PIECE_BYTES))
    return size, digest.hexdigest()
