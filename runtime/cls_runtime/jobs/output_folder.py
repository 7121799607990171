"""The folder that a job writes to, on a disk or behind a URI: files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cls_runtime.bundle.file_locks import held
from cls_runtime.bundle.files import NO_ROOM, is_part, part_name, remove_dead, whole_file
from cls_runtime.errors import UsageError
from cls_runtime.jobs.filesystems import filesystem, is_uri

LOCK_NAME = ".cls-export.lock"


@dataclass(frozen=True)
class Entry:
    """Something in a folder. A link is neither a file nor a folder, wherever it leads."""

    size_bytes: int
    is_file: bool
    is_folder: bool


class OutputFolder(Protocol):
    """A folder of whole files. What is being written has a name that starts with a dot, which readers of Parquet folders pass over."""

    def entries(self) -> dict[str, Entry]:
        """What is in the folder, by name; empty where there is no folder. The lock is left out."""

    def create(self) -> None:
        """Makes the folder, if need be."""

    def open(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """A file for random access."""

    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    def write(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """An open file that becomes `name` when the block ends normally, on the disk for good, and vanishes when it does not."""

    def remove(self, name: str) -> None:
        """Removes a file."""

    def parts(self, of: Callable[[str], bool]) -> list[str]:
        """The hidden names of files on their way to a name for which `of` holds."""

    def remove_dead(self, part: str) -> None:
        """Removes such a hidden file, unless it is seen that somebody writes it."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other jobs out of the folder, where the system can."""


@contextlib.contextmanager
def advised_when_full(name: str) -> Iterator[None]:
    """Says of a full disk what to do about it; `name` is the file that is being written, for an error that names none."""
    try:
        yield
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        advice = "the finished shards stay; make room, and run the same command again to continue"
        raise OSError(error.errno, f"{error.strerror}; {advice}", error.filename or name) from None


def output_folder(name: str) -> OutputFolder:
    """The folder at a path or a URI.

    Raises:
        UsageError: the URI's filesystem is unknown.
    """
    return _RemoteFolder(name) if is_uri(name) else _LocalFolder(Path(name))


class _LocalFolder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def entries(self) -> dict[str, Entry]:
        if not self._path.exists():
            return {}
        with os.scandir(self._path) as items:
            return {item.name: _entry(item) for item in items if item.name != LOCK_NAME}

    def create(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output {self._path} cannot be made ({error.strerror})") from None

    def open(self, name: str) -> contextlib.AbstractContextManager[Any]:
        return (self._path / name).open("rb", buffering=0)

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return whole_file(self._path / name)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    def parts(self, of: Callable[[str], bool]) -> list[str]:
        return _parts(self.entries(), of)

    def remove_dead(self, part: str) -> None:
        remove_dead(self._path / part)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        path = self._path / LOCK_NAME
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(held(path))
            except BlockingIOError:
                raise UsageError(f"output {self._path}: another job is writing to it; wait for it or end it") from None
            except OSError as error:
                # A folder that cannot be written may hold a finished job, which is only read.
                if error.errno != errno.EROFS and os.path.lexists(path):
                    reason = error.strerror or error
                    raise UsageError(f"output {self._path}: {LOCK_NAME} cannot be locked ({reason}); choose another folder") from None
            yield


class _RemoteFolder:
    """On a filesystem of Arrow or fsspec. An object store shows an object when it is whole; elsewhere a move shows it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._system, self._path = filesystem(uri)

    def entries(self) -> dict[str, Entry]:
        from pyarrow import fs

        selector = fs.FileSelector(self._path, allow_not_found=True)
        file, folder = fs.FileType.File, fs.FileType.Directory
        items = self._system.get_file_info(selector)
        return {item.base_name: Entry(int(item.size or 0), item.type == file, item.type == folder) for item in items}

    def create(self) -> None:
        try:
            self._system.create_dir(self._path, recursive=True)
        except OSError as error:
            raise UsageError(f"output {self._uri} cannot be made ({error})") from None

    def open(self, name: str) -> contextlib.AbstractContextManager[Any]:
        file: contextlib.AbstractContextManager[Any] = self._system.open_input_file(f"{self._path}/{name}")
        return file

    def read(self, name: str) -> bytes:
        with self._system.open_input_stream(f"{self._path}/{name}") as file:
            return bytes(file.read())

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[Any]:
        part = f"{self._path}/{part_name(name)}"
        try:
            with self._system.open_output_stream(part) as file:
                yield file
            self._system.move(part, f"{self._path}/{name}")
        except BaseException:
            with contextlib.suppress(OSError):
                self._system.delete_file(part)
            raise

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._system.delete_file(f"{self._path}/{name}")

    def parts(self, of: Callable[[str], bool]) -> list[str]:
        return _parts(self.entries(), of)

    def remove_dead(self, part: str) -> None:
        self.remove(part)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield


def _entry(item: os.DirEntry[str]) -> Entry:
    size_bytes = item.stat(follow_symlinks=False).st_size
    return Entry(size_bytes, item.is_file(follow_symlinks=False), item.is_dir(follow_symlinks=False))


def _parts(entries: Mapping[str, Entry], of: Callable[[str], bool]) -> list[str]:
    hidden = [(name, name.removeprefix(".").rsplit(".", 2)[0]) for name, entry in entries.items() if entry.is_file]
    return [part for part, name in hidden if of(name) and is_part(part, name)]
