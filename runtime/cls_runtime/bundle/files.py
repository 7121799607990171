"""Files: written so that they are whole or not there, read only where they are plain files, and recognized by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cls_runtime.errors import BundleError

PART = ".part"
_BLOCK_BYTES = 2**20


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
    try:
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
    finally:
        part.unlink(missing_ok=True)  # once it is renamed, nothing has this name
    sync_folder(target.parent)


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


@contextlib.contextmanager
def open_regular(path: Path, *, max_bytes: int | None = None) -> Iterator[BinaryIO]:
    """Opens a file of a bundle to read it, and only a plain file: a pipe would wait for its writer, a device may never end.

    Raises:
        BundleError: it is not a regular file, or has more than `max_bytes` bytes.
        OSError: it does not exist or cannot be opened.
    """
    _check_regular(path, path.stat(), max_bytes=max_bytes)
    # What is opened may be another file by now, so it is looked at again. Without O_NONBLOCK a pipe would not even open.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb") as file:
        _check_regular(path, os.fstat(descriptor), max_bytes=max_bytes)
        yield file


def read_regular(path: Path, *, max_bytes: int) -> bytes:
    """The content of a file of a bundle.

    Raises:
        BundleError: it is not a regular file, or has more than `max_bytes` bytes.
        OSError: it does not exist or cannot be read.
    """
    with open_regular(path, max_bytes=max_bytes) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:  # it grew, or its size is not what it holds, as in /proc
        raise BundleError(f"{path} has more than {max_bytes:,} bytes, expected at most so many; it is not a file of a bundle")
    return data


def _check_regular(path: Path, status: os.stat_result, *, max_bytes: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise BundleError(f"{path} is not a regular file; the bundle is damaged, copy or export it again")
    if max_bytes is not None and status.st_size > max_bytes:
        raise BundleError(f"{path} has {status.st_size:,} bytes, expected at most {max_bytes:,}; it is not a file of a bundle")


def sha256(path: Path) -> str:
    """The SHA-256 of a file in hexadecimal, read block by block.

    Raises:
        BundleError: it is not a regular file.
        OSError: it does not exist or cannot be read.
    """
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()
