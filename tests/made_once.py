"""What takes long to make is made once a session, by whichever of pytest-xdist's workers asks for it first."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path


def made_once(folder: Path, make: Callable[[Path], object]) -> Path:
    """`folder`, filled by `make` if nobody has yet. Read-only by agreement."""
    from filelock import FileLock  # environments that are given their bundles need not have it

    folder.parent.mkdir(parents=True, exist_ok=True)
    done = folder.with_name(f"{folder.name}.done")
    with FileLock(folder.with_name(f"{folder.name}.lock")):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
