"""Which files a name stands for: itself, those of a folder, those of a pattern."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

from cls_runtime.errors import UsageError
from cls_runtime.jobs.filesystems import is_uri, parquet_files_under
from cls_runtime.reading.text_files import FORMATS, is_named_as_texts

# os.path and glob.glob take any name and any pattern; pathlib raises at names with a zero or of too many letters, and at absolute patterns.


def expand(name: str) -> list[str]:
    """The files that a name stands for: itself, or those of a folder or a glob, by name.

    Raises:
        UsageError: a folder without a file to read, a glob that matches nothing, a folder that cannot be read, a link to nothing.
    """
    if is_uri(name):
        return parquet_files_under(name)
    if os.path.isdir(name):  # noqa: PTH112
        files = _under(name)
    elif glob.has_magic(name) and not os.path.exists(name):  # noqa: PTH110
        _check_folders(name)
        files = [item for item in glob.glob(name, recursive=True) if not os.path.isdir(item)]  # noqa: PTH112, PTH207
    else:
        return [name]
    found = [item for item in files if _is_file(item)]
    if not found:
        what = "folder holds no" if os.path.isdir(name) else "pattern matches no"  # noqa: PTH112
        raise UsageError(f"{name}: the {what} {', '.join(FORMATS)} files")
    return [str(path) for path in sorted(map(Path, _once(found)))]


def _under(folder: str) -> list[str]:
    """Files of a known format; what starts with a dot or an underscore is bookkeeping, as everywhere in the Hadoop world."""
    found = []
    for place, folders, names in os.walk(folder, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith((".", "_"))]
        seen = [name for name in names if not name.startswith((".", "_")) and is_named_as_texts(Path(name))]
        found += [os.path.join(place, name) for name in seen]  # noqa: PTH118
    return found


def _refuse(error: OSError) -> NoReturn:
    raise UsageError(f"{error.filename} cannot be read ({error.strerror}); its files would be missing")


def _check_folders(pattern: str) -> None:
    """Refuses a folder that cannot be read: glob passes over it, and its files would be missing.

    Raises:
        UsageError: a folder that a part of the pattern matches cannot be read.
    """
    for part in _parts(pattern):
        for folder in glob.iglob(part, recursive=True):  # noqa: PTH207
            if os.path.isdir(folder) and not os.access(folder, os.R_OK | os.X_OK):  # noqa: PTH112
                raise UsageError(f"{folder} cannot be read (permission denied); its files would be missing")


def _parts(pattern: str) -> Iterator[str]:
    """What stands before each separator."""
    for place, letter in enumerate(pattern):
        if letter == "/" and place:
            yield pattern[:place]


def _is_file(name: str) -> bool:
    """Whether a name is a file; a pipe, a device or a socket is passed over.

    Raises:
        UsageError: a link to nothing.
    """
    if os.path.islink(name) and not os.path.exists(name):  # noqa: PTH110, PTH114
        raise UsageError(f"{name} is a broken link ({os.readlink(name)}); fix or remove it")  # noqa: PTH115
    return os.path.isfile(name)  # noqa: PTH113


def _once(names: Sequence[str]) -> list[str]:
    """A folder that links to one that it is in has each file again and again: the shortest name of each stays."""
    shortest: dict[tuple[str, str], str] = {}
    for name in sorted(names, key=len):
        folder, last = os.path.split(name)
        shortest.setdefault((os.path.realpath(folder), last), name)
    return list(shortest.values())
