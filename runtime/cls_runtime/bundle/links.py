"""How far links may lead: within the folder, to the blobs of the hub's cache where it is a snapshot there, or where the caller says so."""

from __future__ import annotations

import re
from pathlib import Path

from cls_runtime.errors import BundleError

NOT_DOWNLOADED = "is not downloaded (it is a link into the hub's cache that leads to nothing); run hf download for this repository again"

_SHARED_BLOB = re.compile(r"[0-9a-f]{64}")


def hub_repository(folder: Path) -> Path | None:
    """The repository's folder in the hub's cache, of which the real `folder` is a snapshot or lies in one; None elsewhere.

    >>> hub_repository(Path("/hub/models--org--name/snapshots/0123")).name
    'models--org--name'
    """
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots" and part.parent.parent.name.startswith("models--"):
            return part.parent.parent
    return None


def is_link_to_blob(path: Path) -> bool:
    """Whether a path is what the hub's cache has in its snapshots, a link to the content in `blobs`; one that leads to nothing too."""
    return path.is_symlink() and path.readlink().parent.name == "blobs"


def is_shared_blob(real: Path, repository: Path) -> bool:
    """Whether a real path is a file's content in the store beside a repository's folder in the hub's cache, `blobs/<2>/<64 digits>`, which
    huggingface_hub shares among the repositories that have the same file.
    """
    name = real.name
    is_one = _SHARED_BLOB.fullmatch(name) is not None and real.parent == repository.parent / "blobs" / name[:2]
    return is_one and repository.name.startswith("models--")


def resolved(path: Path, folder: Path, *, follow_links: bool) -> Path:
    """The real path of a file of the bundle in `folder`, which with `follow_links` may be anywhere.

    Raises:
        BundleError: a link leaves the folder, and the blobs that a snapshot's links lead to; or what it leads to was not downloaded.
        OSError, RuntimeError: it is not there, or links lead round in circles.
    """
    try:
        real = path.resolve(strict=True)
    except FileNotFoundError:
        if is_link_to_blob(path):
            raise BundleError(f"{path} {NOT_DOWNLOADED}") from None
        raise
    place = folder.resolve()  # now, not once: an export may have renamed it meanwhile
    repository = hub_repository(place)
    if follow_links or real.is_relative_to(place):
        return real
    if repository is not None and (real.is_relative_to(repository / "blobs") or is_shared_blob(real, repository)):
        return real
    raise BundleError(
        f"{path} is a link that leaves the bundle (to {real}); copy the bundle with its links resolved, or where you trust whoever made "
        "them pass follow_links=True (--follow-links of cls-embed, cls-verify and cls-doctor)"
    )
