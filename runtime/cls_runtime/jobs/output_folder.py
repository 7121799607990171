"""The folder that a job writes to, on a disk or behind a URI: files that are whole or not there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cls_runtime.bundle.files import part_name, whole_file
from cls_runtime.errors import UsageError
from cls_runtime.jobs.filesystems import filesystem, is_uri


class OutputFolder(Protocol):
    """A folder of whole files. What is being written has a name that starts with a dot, which readers of Parquet folders pass over."""

    def sizes(self) -> dict[str, int]:
        """The size of each file in the folder, by name; empty where there is no folder."""

    def create(self) -> None:
        """Makes the folder, if need be."""

    def read(self, name: str) -> bytes:
        """The bytes of a file."""

    def write(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """An open file that becomes `name` when the block ends normally, on the disk for good, and vanishes when it does not."""

    def remove(self, name: str) -> None:
        """Removes a file."""

    def lock(self) -> contextlib.AbstractContextManager[None]:
        """Keeps other jobs out of the folder, where the system can."""


def output_folder(name: str) -> OutputFolder:
    """The folder at a path or a URI.

    Raises:
        UsageError: the URI's filesystem is unknown.
    """
    return _RemoteFolder(name) if is_uri(name) else _LocalFolder(Path(name))


class _LocalFolder:
    def __init__(self, path: Path) -> None:
        self._path = path

    def sizes(self) -> dict[str, int]:
        if not self._path.exists():
            return {}
        return {item.name: item.stat().st_size for item in self._path.iterdir() if item.is_file()}

    def create(self) -> None:
        try:
            self._path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(f"output {self._path} cannot be made ({error.strerror})") from None

    def read(self, name: str) -> bytes:
        return (self._path / name).read_bytes()

    def write(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        return whole_file(self._path / name)

    def remove(self, name: str) -> None:
        (self._path / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        try:
            import fcntl
        except ImportError:  # Windows
            yield
            return
        descriptor = os.open(self._path, os.O_RDONLY)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"output {self._path}: another job is writing to it; wait for it or end it") from None
            except OSError:  # a network filesystem without locks
                pass
            yield
        finally:
            os.close(descriptor)


class _RemoteFolder:
    """On a filesystem of Arrow or fsspec. An object store shows an object when it is whole; elsewhere a move shows it."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._system, self._path = filesystem(uri)

    def sizes(self) -> dict[str, int]:
        from pyarrow import fs

        selector = fs.FileSelector(self._path, allow_not_found=True)
        items = self._system.get_file_info(selector)
        return {item.base_name: int(item.size or 0) for item in items if item.type == fs.FileType.File}

    def create(self) -> None:
        try:
            self._system.create_dir(self._path, recursive=True)
        except OSError as error:
            raise UsageError(f"output {self._uri} cannot be made ({error})") from None

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

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        yield
