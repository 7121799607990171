"""What a command must not write over: what it reads, and the folders that are not its own. Links and other spellings are seen through.

Files are compared by what they are and not by their names: a hard link, or a name that differs in case where the file system does not mind,
is the same file.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from cls_runtime.errors import UsageError

_STANDARD_INPUT = "-"


def refuse_overwriting(target: Path, *, what: str, files: Iterable[str | Path] = (), folders: Iterable[Path] = ()) -> None:
    """Refuses a file or a folder that would be written over something that is read, or in its midst.

    Args:
        target: what will be written; it need not exist.
        what: what it is for in words, the error's first ones, such as `--junit report.xml`.
        files: that are read; `-` is standard input. Names of nothing, and of devices and pipes, are passed over.
        folders: in which nothing may be written, such as a bundle.

    Raises:
        UsageError: `target` is one of `files`, is one of `folders` or in one, or is another name of a file in one.
    """
    real = Path(os.path.realpath(target))
    known = _regular(real)
    if known is not None:
        for name in files:
            if _same(known, _regular(name)):
                raise UsageError(f"{what} is {_label(name)}, which is read; choose another name")
    for folder in folders:
        there = _stat(folder)
        if there is None or not stat.S_ISDIR(there.st_mode):
            continue
        if any(_same(there, _stat(parent)) for parent in (real, *real.parents)):
            raise UsageError(f"{what} is in {folder}, which is read and must stay as it is; choose another place")
        if known is not None and known.st_nlink > 1:
            for path in _files_below(folder):
                if _same(known, _regular(path)):
                    raise UsageError(f"{what} is {path} by another name, which is read; choose another name")


def refuse_replacing(target: Path, *, what: str, read: Iterable[Path]) -> None:
    """Refuses to replace a folder as a whole that is read itself, or that holds something that is read.

    Raises:
        UsageError: one of `read` is `target`, or is in it.
    """
    there = _stat(target)
    if there is None:
        return
    for path in read:
        real = Path(os.path.realpath(path))
        if any(_same(there, _stat(parent)) for parent in (real, *real.parents)):
            where = "is" if _same(there, _stat(real)) else "holds"
            raise UsageError(f"{what} {where} {path}, which is read and must stay as it is; choose another place")


def names_below(path: Path, folder: Path) -> tuple[str, ...] | None:
    """The names that lead from `folder` to `path`, none where they are the same; None where `path` is elsewhere."""
    there = _stat(folder)
    real = Path(os.path.realpath(path))
    for parent in (real, *real.parents):
        if _same(there, _stat(parent)):
            return real.relative_to(parent).parts
    return None


def _label(name: str | Path) -> str:
    return "standard input" if str(name) == _STANDARD_INPUT else f"the file {name}"


def _stat(path: Path | str) -> os.stat_result | None:
    with contextlib.suppress(OSError, ValueError):
        return os.fstat(0) if path == _STANDARD_INPUT else os.stat(path)  # noqa: PTH116  of standard input there is no path
    return None


def _regular(path: Path | str) -> os.stat_result | None:
    found = _stat(path)
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def _same(first: os.stat_result | None, second: os.stat_result | None) -> bool:
    return first is not None and second is not None and os.path.samestat(first, second)


def _files_below(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder):
        yield from (Path(root) / name for name in names)
