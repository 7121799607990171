"""Commits in the hub's cache, whose layout is `refs/<name>` with a commit in each file, and `snapshots/<commit>` with links to `blobs`."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

from cls_runtime.bundle.hub_names import HubName

_SHORT_HASH = re.compile(r"[0-9a-f]{7,39}")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_commit(revision: str) -> bool:
    """Whether a revision is a whole hash, which names one commit for good."""
    return _COMMIT.fullmatch(revision) is not None


def commits_in(repository: Path) -> list[str]:
    """The commits of which a repository's folder in the cache has files."""
    folder = repository / "snapshots"
    return sorted(path.name for path in folder.iterdir() if is_commit(path.name)) if folder.is_dir() else []


def ref_in(repository: Path, name: str) -> str | None:
    """The commit that a branch or a tag was when it was last fetched; None where it never was."""
    path = repository / "refs" / name
    if ".." in path.parts or not path.is_file():
        return None
    commit = path.read_bytes()[:100].decode("ascii", "replace").strip()
    return commit if is_commit(commit) else None


def commit_in(repository: Path, short: str) -> str | None:
    """The one commit in the cache that a short hash begins; None where there is none, several, or a branch or a tag of that name."""
    if _SHORT_HASH.fullmatch(short) is None or ref_in(repository, short) is not None:
        return None
    found = [commit for commit in commits_in(repository) if commit.startswith(short)]
    return found[0] if len(found) == 1 else None


def with_whole_hash(named: HubName) -> HubName:
    """The same with the commit that a short hash begins, by the cache or else the hub; it needs huggingface_hub.

    Any other revision, and one that neither of them knows, stays as it is.
    """
    if named.revision is None or _SHORT_HASH.fullmatch(named.revision) is None:
        return named
    from huggingface_hub import HfApi, constants
    from huggingface_hub.file_download import repo_folder_name

    commit = commit_in(Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=named.id, repo_type="model"), named.revision)
    if commit is None:
        with contextlib.suppress(Exception):  # offline, unknown, gated: fetching it says so
            found = {item.commit_id for item in HfApi().list_repo_commits(named.id) if item.commit_id.startswith(named.revision)}
            commit = found.pop() if len(found) == 1 else None
    return named if commit is None else HubName(id=named.id, revision=commit)
