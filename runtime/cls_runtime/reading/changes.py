"""Whether a file was changed while it was read: rows of two states of it belong to no file that there ever was."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import BinaryIO

from cls_runtime.errors import TextError


@dataclass(frozen=True)
class Stamp:
    """A file's size, the time of its last change, and which file it is. Nothing else tells it from another at no cost."""

    size_bytes: int
    changed_ns: int
    device: int
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """That of a file with this status."""
        return cls(status.st_size, status.st_mtime_ns, status.st_dev, status.st_ino)


def stamp_of(file: BinaryIO | None) -> Stamp | None:
    """The stamp of an open file; None for None, and for a pipe, which is nothing but changes."""
    status = None if file is None else os.fstat(file.fileno())
    return Stamp.of(status) if status is not None and stat.S_ISREG(status.st_mode) else None


def check_unchanged(before: Stamp | None, now: Stamp | None, name: str) -> None:
    """Compares two stamps of the file `name`; None is what cannot be compared.

    Raises:
        TextError: they differ; the message says in what.
    """
    if before is None or now is None or before == now:
        return
    if before.size_bytes != now.size_bytes:
        how = f"it had {before.size_bytes:,} bytes and has {now.size_bytes:,}"
    else:
        how = "its bytes were written again" if (before.device, before.inode) == (now.device, now.inode) else "another file has its name"
    raise TextError(f"{name} was changed while it was read ({how}); start again when nothing writes to it")
