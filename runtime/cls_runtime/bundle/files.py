"""Files: written so that they are whole or not there, and recognized by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

PART = ".part"
_BLOCK_BYTES = 2**20
# What this process is writing just now and no one shall see before it is whole: for `remove_unfinished`.
_UNFINISHED: set[Path] = set()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that becomes `path` when the block ends normally, on the disk for good; when it does not, nothing is left of it.

    Until then it is a hidden file beside the target (`part_name`), and what was there under the target's name stays as it was. A symbolic
    link stays one: what it points to is replaced.

    Example:
        >>> with whole_file(Path("report.xml")) as file:  # doctest: +SKIP
        ...     file.write(b"<testsuites/>")

    Raises:
        OSError: nothing can be written there, the disk is full, or failed.
    """
    target = Path(os.path.realpath(path))
    part = target.with_name(part_name(target.name))
    with unfinished(part):
        file = part.open("xb")
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            with contextlib.suppress(OSError):  # closing writes what is buffered, which on a full disk fails again
                file.close()
            raise
        file.close()
        part.replace(target)
    sync_folder(target.parent)


@contextlib.contextmanager
def unfinished(path: Path) -> Iterator[None]:
    """Removes the file or the folder `path` at the end of the block, however it ends; once it is renamed, nothing has this name."""
    _UNFINISHED.add(path)
    try:
        yield
    finally:
        _remove(path)
        _UNFINISHED.discard(path)


def remove_unfinished() -> None:
    """Removes whatever is `unfinished`, from any thread, where the process is about to end and the blocks will not."""
    for path in list(_UNFINISHED):
        with contextlib.suppress(OSError):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file that is whole or not there; a device or a pipe is written to as it is.

    Raises:
        OSError: as `whole_file`.
    """
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    with whole_file(path) as file:
        file.write(data)


def part_name(name: str) -> str:
    """What a file is called while it is written: hidden, and never twice the same."""
    return f".{name}.{secrets.token_hex(4)}{PART}"


def sync_folder(folder: Path) -> None:
    """Makes what was renamed in a folder survive a power failure. Windows cannot open a folder; its renames are durable by themselves."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read block by block."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
