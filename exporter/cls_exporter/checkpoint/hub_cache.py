"""The snapshot of a checkpoint in its repository's folder of the hub's cache."""

from __future__ import annotations

from pathlib import Path

from cls_exporter.checkpoint.weights import some_of
from cls_exporter.errors import CheckpointError
from cls_runtime.bundle.hub_cache import commit_in, commits_in, ref_in


def snapshot_of(repository: Path, revision: str | None) -> Path:
    """The snapshot of a revision in a repository's folder of the cache; None is the main one, or the only one that there is.

    Raises:
        CheckpointError: it is not there.
    """
    held = commits_in(repository)
    commit = ref_in(repository, revision or "main")
    if commit is None and revision is not None:
        commit = revision if revision in held else commit_in(repository, revision)
    if commit is None and revision is None and len(held) == 1:
        commit = held[0]
    if commit not in held:
        wanted = "main snapshot" if revision is None else f"snapshot of revision {revision}"
        raise CheckpointError(
            f"{repository.name} is a folder of the hub's cache and has no {wanted} (it has {some_of(held) or 'none'}); "
            "name one of these with --revision, or the hub id in place of the folder"
        )
    return repository / "snapshots" / commit
