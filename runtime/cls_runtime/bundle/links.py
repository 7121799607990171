"""How far links may lead: within the folder, to the blobs of the hub's cache where it is a snapshot there, or where the caller says so."""

from __future__ import annotations

from pathlib import Path


def hub_repository(folder: Path) -> Path | None:
    """The repository's folder in the hub's cache, of which the real `folder` is a snapshot or lies in one; None elsewhere.

    >>> hub_repository(Path("/hub/models--org--name/snapshots/0123")).name
    'models--org--name'
    """
    for part in (folder, *folder.parents):
        if part.parent.name == "snapshots" and part.parent.parent.name.startswith("models--"):
            return part.parent.parent
    return None


def stays_inside(real: Path, folder: Path) -> bool:
    """Whether a file of a bundle, with its links resolved, is in the bundle's folder, or in the blobs that a snapshot's links lead to."""
    place = folder.resolve()  # now, not once: an export may have renamed it meanwhile
    repository = hub_repository(place)
    return real.is_relative_to(place) or (repository is not None and real.is_relative_to(repository / "blobs"))


def leaves_bundle(path: Path, real: Path) -> str:
    """The message about a link that does not."""
    return (
        f"{path} is a link that leaves the bundle (to {real}); copy the bundle with its links resolved, or where you trust whoever made "
        "them pass follow_links=True (--follow-links of cls-embed, cls-verify and cls-doctor)"
    )
