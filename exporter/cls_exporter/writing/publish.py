"""A bundle appears whole or not at all: a temporary sibling folder, then one rename.

An existing bundle is replaced by exchanging the two folders, which Linux does in one step (`renameat2` with `RENAME_EXCHANGE`), so that a
kill at any point leaves the old bundle whole or the new one whole. Where the file system or the platform cannot exchange, the old bundle is
renamed aside, the new one renamed in, and the old one deleted; a kill between the two renames then leaves no bundle under the target's
name, and the next export to it puts the old one back. What a killed export leaves behind is removed by the next one.

Names beside the target `DIR`: `.DIR.cls-export-PID-START-xxxx` is being written by the process PID that started at START, and
`.DIR.cls-export-old` is a bundle on its way out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from cls_runtime.bundle.files import sync_folder, unfinished
from cls_runtime.bundle.manifest import MANIFEST_NAME
from cls_runtime.errors import UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def staged(target: Path, *, force: bool) -> Iterator[Path]:
    """Gives a temporary folder beside `target` to write a bundle into, and renames it to `target` when the block ends well.

    When the block raises (Ctrl-C included), the temporary folder is removed and an existing bundle stays as it was.

    Example:
        >>> with staged(Path("models/bert"), force=False) as folder:  # doctest: +SKIP
        ...     (folder / "config.json").write_text("{}")

    Raises:
        UsageError: `target` exists and `force` is false, or it is not a bundle and so must not be replaced, or cannot be written beside.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow the symbolic link that is refused below
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _recover(target)
        _check_replaceable(target, force=force)
        folder = target.parent / f"{_prefix(target)}{os.getpid()}-{_started(os.getpid())}-{secrets.token_hex(4)}"
        folder.mkdir()
    except OSError as error:
        raise UsageError(f"{target.parent} cannot be written ({error.strerror or error}); choose another folder with -o") from None
    with unfinished(folder):
        yield folder
        _sync(folder)
        # It may have appeared while the export ran.
        _check_replaceable(target, force=force)
        _put_in_place(folder, target)


def _prefix(target: Path) -> str:
    return f".{target.name}.cls-export-"


def _aside(target: Path) -> Path:
    return target.parent / f"{_prefix(target)}old"


def _check_replaceable(target: Path, *, force: bool) -> None:
    if target.is_symlink():
        raise UsageError(f"{target} is a symbolic link; expected a folder or nothing; export to the folder that it points to")
    if not target.exists():
        return
    if not target.is_dir():
        raise UsageError(f"{target} is a file; expected a folder or nothing; choose another folder with -o")
    empty = not any(target.iterdir())
    if not force and not empty:
        raise UsageError(f"{target} exists; use --force to replace it, or choose another folder with -o")
    if not empty and not (target / MANIFEST_NAME).is_file():
        raise UsageError(
            f"{target} exists and is not a bundle (it has no {MANIFEST_NAME}), so --force does not delete it; move it away, or "
            "choose another folder with -o"
        )


def _recover(target: Path) -> None:
    """Puts back a bundle that a killed export had renamed aside, and removes what dead exports left."""
    aside = _aside(target)
    if aside.is_dir() and not target.exists() and not target.is_symlink():
        aside.rename(target)
    shutil.rmtree(aside, ignore_errors=True)
    pattern = re.compile(re.escape(_prefix(target)) + r"(\d+)-(\d+)-[0-9a-f]{8}")
    for sibling in target.parent.iterdir():
        owner = pattern.fullmatch(sibling.name)
        if owner and not _runs(int(owner.group(1)), int(owner.group(2))):
            shutil.rmtree(sibling, ignore_errors=True)


def _runs(pid: int, started: int) -> bool:
    """Whether the process `pid` that started at `started` still runs; another one may have got its number."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass
    now = _started(pid)
    return 0 in (now, started) or now == started


def _started(pid: int) -> int:
    """When the process started, in clock ticks since boot; 0 where the platform does not say."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rsplit(")", 1)[1].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


def _put_in_place(folder: Path, target: Path) -> None:
    if not target.exists():
        folder.rename(target)
    elif not _exchange(folder, target):
        _replace_in_two_steps(folder, target)
    sync_folder(target.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swaps two folders in one step; False where that is not possible."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(renameat2(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def _replace_in_two_steps(folder: Path, target: Path) -> None:
    aside = _aside(target)
    target.rename(aside)
    try:
        folder.rename(target)
    except OSError:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def _sync(folder: Path) -> None:
    """Writes every file and folder through to the disk, so that the rename cannot come before its content."""
    for root, _, files in os.walk(folder):
        for name in files:
            with (Path(root) / name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))
