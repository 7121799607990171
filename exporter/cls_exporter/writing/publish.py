"""A bundle appears whole or not at all: a temporary sibling folder, then one rename.

An existing bundle is replaced by exchanging the two folders, which Linux does in one step (`renameat2` with `RENAME_EXCHANGE`), so that a
kill at any point leaves the old bundle whole or the new one whole. Where the file system or the platform cannot exchange, the old bundle is
renamed aside, the new one renamed in, and the old one deleted; a kill between the two renames then leaves no bundle under the target's
name, and the next export to it puts the old one back. What a killed export leaves behind is removed by the next one.

Names beside the target `DIR`, with one token for all that an export makes: `.DIR.cls-export-TOKEN` is being written,
`.DIR.cls-export-TOKEN.old` is a bundle on its way out, and `.DIR.cls-export-TOKEN.lock` is locked as long as that export lives, wherever it
runs.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cls_exporter.errors import one_line
from cls_exporter.writing.model_card import CARD_NAME
from cls_runtime.bundle.file_locks import held, is_held
from cls_runtime.bundle.files import named_when_full, sync_folder, unfinished
from cls_runtime.bundle.folder import ASIDE, staged_prefix
from cls_runtime.bundle.manifest import MANIFEST_NAME
from cls_runtime.errors import UsageError

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_LOCK = ".lock"


@contextlib.contextmanager
def staged(target: Path, *, force: bool) -> Iterator[Path]:
    """Gives a temporary folder beside `target` to write a bundle into, and renames it to `target` when the block ends well.

    When the block raises (Ctrl-C included), the temporary folder is removed and an existing bundle stays as it was.

    Example:
        >>> with staged(Path("models/new"), force=False) as folder:
        ...     (folder / "config.json").write_text("{}")
        2

    Raises:
        UsageError: `target` exists and `force` is false, or it is not a bundle and nothing else, so that it must not be replaced, or it
            cannot be written beside.
    """
    target = Path(os.path.abspath(target))  # noqa: PTH100 - resolve() would follow the symbolic link that is refused below
    folder = target.parent / f"{staged_prefix(target)}{secrets.token_hex(8)}"
    with contextlib.ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            _recover(target)
            _check_replaceable(target, force=force)
            stack.enter_context(held(folder.with_name(folder.name + _LOCK)))
            folder.mkdir()
        except OSError as error:
            raise UsageError(f"{target.parent} cannot be written ({error.strerror or error}); choose another folder with -o") from None
        with named_when_full(target), unfinished(folder):
            yield folder
            _sync(folder)
            # It may have appeared while the export ran.
            _check_replaceable(target, force=force)
            _put_in_place(folder, target)


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
    if not empty:
        _refuse_more_than_a_bundle(target)


def _refuse_more_than_a_bundle(target: Path) -> None:
    """Refuses to delete what no export has written: a bundle's manifest names every file of it but the card, which people may edit."""
    own = {MANIFEST_NAME, CARD_NAME, *_named_files(target)}
    held_files = (Path(root, name).relative_to(target).as_posix() for root, _, names in os.walk(target) for name in names)
    foreign = sorted(name for name in held_files if name not in own)
    if foreign:
        raise UsageError(
            f"{target} exists and holds {foreign[0]!r}, which is not the bundle's, so --force does not delete it; move that away, or "
            "choose another folder with -o"
        )


def paths_in_manifest(data: bytes) -> set[str]:
    """Every path in a manifest, of whatever version.

    Raises:
        ValueError, RecursionError: it is no JSON.
    """

    def paths(value: Any) -> Iterator[str]:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            if key == "path" and isinstance(item, str):
                yield item
            yield from paths(item)

    return set(paths(json.loads(data)))


def _named_files(target: Path) -> set[str]:
    try:
        return paths_in_manifest((target / MANIFEST_NAME).read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(
            f"{target} exists and does not say which files are the bundle's, so --force does not delete it ({one_line(error)}); move it "
            "away, or choose another folder with -o"
        ) from None


def _recover(target: Path) -> None:
    """Puts back a bundle that a killed export had renamed aside, and removes what dead exports left."""
    pattern = re.compile(re.escape(staged_prefix(target)) + rf"[0-9a-f]{{16}}(|{ASIDE}|{_LOCK})")
    left: dict[Path, list[Path]] = {}
    for sibling in target.parent.iterdir():
        name = pattern.fullmatch(sibling.name)
        if name is not None:
            left.setdefault(sibling.with_name(sibling.name.removesuffix(name.group(1)) + _LOCK), []).append(sibling)
    for lock, siblings in left.items():
        with contextlib.suppress(BlockingIOError):
            if not is_held(lock):
                with held(lock):  # so that two exports do not clear up the same
                    for sibling in siblings:
                        _clear(sibling, target)


def _clear(sibling: Path, target: Path) -> None:
    if sibling.suffix == ASIDE and not target.exists() and not target.is_symlink():
        sibling.rename(target)
    elif sibling.suffix != _LOCK:
        shutil.rmtree(sibling, ignore_errors=True)


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
    aside = folder.with_name(folder.name + ASIDE)
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
