"""Commits in the hub's cache, whose layout is `refs/<name>` with a commit in each file, and `snapshots/<commit>` with links to `blobs`."""

from __future__ import annotations

import re
from pathlib import Path

from cls_exporter.checkpoint.weights import some_of
from cls_exporter.errors import CheckpointError

_SHORT_HASH = re.compile(r"[0-9a-f]{7,39}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def snapshot_of(repository: Path, revision: str | None) -> Path:
    """The snapshot of a revision in a repository's folder of the cache; None is the main one, or the only one that there is.

    Raises:
        CheckpointError: it is not there.
    """
    held = _snapshots(repository)
    commit = _ref(repository, revision or "main")
    if commit is None and revision is not None:
        commit = revision if revision in held else cached_commit(repository, revision)
    if commit is None and revision is None and len(held) == 1:
        commit = held[0]
    if commit not in held:
        wanted = "main snapshot" if revision is None else f"snapshot of revision {revision}"
        raise CheckpointError(
            f"{repository.name} is a folder of the hub's cache and has no {wanted} (it has {some_of(held) or 'none'}); "
            "name one of these with --revision, or the hub id in place of the folder"
        )
    return repository / "snapshots" / commit


def cached_commit(repository: Path, short: str) -> str | None:
    """The one commit in the cache that a short hash begins; None where there is none, several, or a branch or a tag of that name."""
    if not is_short_hash(short) or _ref(repository, short) is not None:
        return None
    found = [commit for commit in _snapshots(repository) if commit.startswith(short)]
    return found[0] if len(found) == 1 else None


def is_short_hash(revision: str) -> bool:
    """Whether a revision may be the beginning of a commit's hash."""
    return _SHORT_HASH.fullmatch(revision) is not None


def _snapshots(repository: Path) -> list[str]:
    folder = repository / "snapshots"
    return sorted(path.name for path in folder.iterdir() if _COMMIT.fullmatch(path.name)) if folder.is_dir() else []


def _ref(repository: Path, name: str) -> str | None:
    path = repository / "refs" / name
    if ".." in path.parts or not path.is_file():
        return None
    commit = path.read_bytes()[:100].decode("ascii", "replace").strip()
    return commit if _COMMIT.fullmatch(commit) else None
