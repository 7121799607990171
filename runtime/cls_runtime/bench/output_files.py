"""Files that a benchmark writes: checked before anything is measured, whole or not there afterwards."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from cls_runtime.errors import UsageError


def check_writable(path: Path, option: str) -> None:
    """Finds out now whether `path` can be written later.

    Raises:
        UsageError: its folder does not exist or cannot be written to, or it is a folder itself.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder, expected a file's name")
    if not path.parent.is_dir():
        raise UsageError(f"{option} {path}: the folder {path.parent} does not exist; make it first")
    try:
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UsageError(f"{option} {path}: the folder {path.parent} cannot be written to ({error.strerror}); choose another") from None


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file under a hidden name beside it and renames it; a device or a pipe is written to as it is."""
    if path.exists() and not path.is_file():
        path.write_bytes(data)
        return
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(name, 0o644)  # noqa: PTH101  as any file that a program writes; mkstemp's are the user's alone
        os.replace(name, path)  # noqa: PTH105
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
