"""Files: written so that they are whole or not there, read only where they are plain files, and recognized by their SHA-256."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from cls_runtime.bundle.file_locks import is_held, is_named, lock
from cls_runtime.errors import BundleError

PART = ".part"
NO_ROOM = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}  # Windows has no quotas
_BLOCK_BYTES = 2**20
_TOKEN_BYTES = 4
_LONGEST_NAME_BYTES = 200  # with what a hidden name has more, it fits into the 255 that file systems take
_ABANDONED_SECONDS = 86_400.0  # without locks, a file that nobody has written to for so long has no writer
# What this process is writing just now and no one shall see before it is whole: for `remove_unfinished`.
_UNFINISHED: set[Path] = set()


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """An open file that becomes `path` when the block ends normally, on the disk for good; when it does not, nothing is left of it.

    Until then it is a hidden file beside the target (`part_name`), and what was there under the target's name stays as it was. A symbolic
    link stays one: what it points to is replaced. What a killed process leaves, `remove_parts` removes.

    Example:
        >>> with whole_file(Path("report.xml")) as file:
        ...     file.write(b"<testsuites/>")
        13

    Raises:
        OSError: nothing can be written there, the disk is full, or failed; it names `path`.
    """
    target = Path(os.path.realpath(path))
    part, file = _locked_part(target)
    with named_when_full(path), unfinished(part):
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if sys.platform == "win32":  # which cannot rename an open file
                file.close()
            part.replace(target)  # still locked, or another process might take it for a dead one's
        except BaseException:
            with contextlib.suppress(OSError):  # closing writes what is buffered, which on a full disk fails again
                file.close()
            raise
        file.close()
    sync_folder(target.parent)


@contextlib.contextmanager
def named_when_full(name: str | Path) -> Iterator[None]:
    """Gives the system's error for a disk that is full or failed the name of what was being written, where it has none: of an open file
    the system knows its number alone.

    >>> with named_when_full("vectors.npy"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device: 'vectors.npy'
    """
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (*NO_ROOM, errno.EIO):
            error.filename = os.fspath(name)
        raise


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
    """Writes a file that is whole or not there; a device or a pipe is written to as it is. What a killed writer of it left is removed.

    Raises:
        OSError: as `whole_file`.
    """
    if path.exists() and not path.is_file():
        with named_when_full(path):
            path.write_bytes(data)
        return
    remove_parts(path)
    with whole_file(path) as file:
        file.write(data)


def part_name(name: str) -> str:
    """What a file is called while it is written: hidden, and never twice the same.

    Half of its digits follow from the other half and the name, so that no file of somebody else is taken for one (`is_part`).
    """
    token = secrets.token_hex(_TOKEN_BYTES)
    return f"{_part_prefix(name)}{token}{_check_digits(name, token)}{PART}"


def is_part(part: str, name: str) -> bool:
    """Whether `part` is what `part_name` calls the file `name`."""
    token = part[len(_part_prefix(name)) :][: 2 * _TOKEN_BYTES]
    return part == f"{_part_prefix(name)}{token}{_check_digits(name, token)}{PART}"


def remove_parts(path: Path) -> None:
    """Removes what killed processes left beside `path` when they wrote it. What is still being written stays."""
    target = Path(os.path.realpath(path))
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):  # noqa: PTH208  names are enough
            if is_part(name, target.name):
                remove_dead(target.with_name(name))


def remove_dead(part: Path) -> None:
    """Removes a hidden file (`part_name`) unless a process is still writing it."""
    if not is_held(part, stale_seconds=_ABANDONED_SECONDS):
        part.unlink(missing_ok=True)


def _locked_part(target: Path) -> tuple[Path, BinaryIO]:
    """A new hidden file beside the target, open and locked."""
    while True:
        part = target.with_name(part_name(target.name))
        file = part.open("xb")
        with contextlib.suppress(BlockingIOError):
            if not lock(file.fileno()) or is_named(file.fileno(), part):
                return part, file
        file.close()  # who looks for leftovers has found it before it was locked


def _part_prefix(name: str) -> str:
    short = name if len(os.fsencode(name)) <= _LONGEST_NAME_BYTES else _digest(name)
    return f".{short}."


def _check_digits(name: str, token: str) -> str:
    return _digest(f"{name}/{token}")[: 2 * _TOKEN_BYTES]


def _digest(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()


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
