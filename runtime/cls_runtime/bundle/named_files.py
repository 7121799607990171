"""The files that a manifest names, and which of them are here where not all are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath, PureWindowsPath

from cls_runtime.bundle.manifest import BundleFile, Manifest
from cls_runtime.errors import BundleError


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is here of a bundle that is on the hub: the paths of its files, and the name that finds all of it, `ID@COMMIT`."""

    name: str
    paths: frozenset[str]


def files_of(manifest: Manifest) -> Iterator[BundleFile]:
    """Every file that a manifest names, companions first, each once."""
    seen: set[str] = set()
    variants = manifest.variants.values()
    for group in (manifest.files, *(files for item in variants for files in (item.files, *item.engine_files.values()))):
        for file in group:
            if file.path not in seen:
                seen.add(file.path)
                yield file


def refuse_path_that_leaves(file: BundleFile, bundle: str) -> None:
    """Refuses a path that, on whatever system, is none of a file inside the bundle's folder; `bundle` names it in the error.

    Raises:
        BundleError: it leads out of the folder.
    """
    posix, windows = PurePosixPath(file.path), PureWindowsPath(file.path)
    if not posix.parts or ".." in windows.parts or windows.anchor or posix.is_absolute() or "\0" in file.path:
        raise BundleError(f"bundle {bundle} names the file {file.path!r}, which leaves the folder; do not use this bundle")
