"""A checkpoint's folder as data: regular files of a bounded size that lie inside it, whatever its names and links say."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from cls_exporter.checkpoint.json_data import parse_json
from cls_exporter.errors import CheckpointError, shown
from cls_runtime.bundle.links import NOT_DOWNLOADED, hub_repository, is_link_to_blob, is_shared_blob
from cls_runtime.bundle.stand_ins import HEAD_BYTES, stand_in

JSON_BYTES = 16 * 2**20
_NAME_CHARACTERS = 255
_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)
# Where a system has them: a pipe that took the file's place since it was looked at is not waited for, a link not followed.
_OPEN_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@dataclass(frozen=True)
class CheckpointFolder:
    """A folder of a checkpoint, and how far its links may lead.

    Attributes:
        path: where it is.
        boundary: the real folder that all its files lie in. Of a folder on disk it is that folder; of a hub snapshot, whose files are
            links to blobs, it is the repository's folder in the cache.
    """

    path: Path
    boundary: Path

    @classmethod
    def of(cls, path: Path) -> CheckpointFolder:
        """The folder at `path`, which may be a link itself."""
        real = Path(os.path.realpath(path))
        return cls(path, hub_repository(real) or real)

    @property
    def name(self) -> str:
        """The folder's own name, for messages."""
        return self.path.name or self.boundary.name

    def has(self, name: str) -> bool:
        """Whether there is anything of that name, a link that leads nowhere included."""
        return os.path.lexists(self.path / name)

    def names(self) -> list[str]:
        """What lies in the folder, sorted; nothing where it is no folder."""
        return sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []

    def inner(self, name: str, *, named_by: str) -> CheckpointFolder:
        """The folder that a file of the checkpoint, `named_by`, calls `name`.

        Raises:
            CheckpointError: the name leads out of this folder.
        """
        return CheckpointFolder(inside(self.path, name, named_by=named_by), self.boundary)

    def file(self, name: str, *, limit_bytes: int) -> Path:
        """The real path of a file, which was found to be a regular one inside the boundary, of at most `limit_bytes`, that was fetched.

        Raises:
            CheckpointError: it is not there, or anything else, such as the pointer that Git LFS leaves in a file's place.
        """
        try:
            real = Path(os.path.realpath(self.path / name, strict=True))
            status = real.stat()
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and is_link_to_blob(self.path / name):
                raise CheckpointError(f"{name} in {self.name} {NOT_DOWNLOADED}, or export it by its hub id with the network on") from None
            reason = getattr(error, "strerror", None) or error
            raise CheckpointError(f"{name} in {self.name} cannot be read ({reason}); fetch the checkpoint again") from None
        if not real.is_relative_to(self.boundary) and not is_shared_blob(real, self.boundary):
            raise CheckpointError(
                f"{name} in {self.name} is a link to a file outside the checkpoint's folder, which is not read; "
                "put a copy of the file in its place"
            )
        kind = next((words for test, words in _KINDS if test(status.st_mode)), None)
        if kind is not None:
            raise CheckpointError(f"{name} in {self.name} is {kind}, expected a regular file; fetch the checkpoint again")
        if status.st_size > limit_bytes:
            raise CheckpointError(f"{name} in {self.name} has {status.st_size} bytes, expected at most {limit_bytes}")
        words = stand_in(self._opened(real, name, limit_bytes=HEAD_BYTES))
        if words is not None:
            raise CheckpointError(f"{name} in {self.name} {words}")
        return real

    def read(self, name: str, *, limit_bytes: int) -> bytes:
        """The content of such a file.

        Raises:
            CheckpointError: as `file`.
        """
        return self._opened(self.file(name, limit_bytes=limit_bytes), name, limit_bytes=limit_bytes)

    def _opened(self, path: Path, name: str, *, limit_bytes: int) -> bytes:
        """The first `limit_bytes` of the file at `path`."""
        try:
            with open(path, "rb", opener=lambda file, _: os.open(file, _OPEN_FLAGS)) as file:
                if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                    raise OSError("it is no longer a regular file")
                return file.read(limit_bytes)
        except OSError as error:
            raise CheckpointError(f"{name} in {self.name} cannot be read ({error.strerror or error}); fetch the checkpoint again") from None

    def json(self, name: str) -> Any:
        """The content of a JSON file.

        Raises:
            CheckpointError: it cannot be read or is not JSON.
        """
        try:
            return parse_json(self.read(name, limit_bytes=JSON_BYTES))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(f"{name} in {self.name} cannot be read as JSON ({error}); fetch the checkpoint again") from None

    def json_object(self, name: str) -> dict[str, Any]:
        """The same for a file that holds an object; an absent file is an empty one."""
        if not self.has(name):
            return {}
        content = self.json(name)
        if not isinstance(content, dict):
            raise CheckpointError(f"{name} in {self.name} holds a {type(content).__name__}, expected a JSON object")
        return content


def inside(folder: Path, name: str, *, named_by: str) -> Path:
    """`folder/name` for a relative `name` that a file of the checkpoint gives; where its links lead is judged by `CheckpointFolder.file`.

    Raises:
        CheckpointError: the name is absolute, climbs out of the folder, or is none that a file can have.
    """
    if not name.isprintable() or len(name) > _NAME_CHARACTERS:
        raise CheckpointError(f"{named_by} names {shown(name)}, which is not a file's name; expected a path inside the checkpoint's folder")
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name:
        raise CheckpointError(f"{named_by} names {shown(name)}, which leaves the checkpoint's folder; expected a path inside it")
    return folder.joinpath(*parts.parts)
