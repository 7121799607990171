"""Where a bundle is: in a folder, or on the hub. What `Encoder.load` and every command take for BUNDLE."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.hub import Snapshot
from cls_runtime.bundle.hub_names import hub_name, is_hub_id
from cls_runtime.bundle.manifest import BundleFile, Manifest, read_manifest
from cls_runtime.bundle.named_files import Fetched, files_of, refuse_path_that_leaves
from cls_runtime.errors import UsageError

# Which files of a bundle are needed, by its manifest.
Wanted = Callable[[Manifest], Iterable[BundleFile]]


@dataclass(frozen=True, kw_only=True)
class Place:
    """A bundle's folder, and where that is a snapshot in the hub's cache whose files are fetched as they are needed, the snapshot."""

    folder: Path
    snapshot: Snapshot | None = None

    @property
    def name(self) -> str:
        """What finds this very bundle in another process: the folder's absolute path, or `ID@COMMIT`."""
        return str(self.folder.absolute()) if self.snapshot is None else str(self.snapshot.at)

    def fetch(self, wanted: Wanted) -> Fetched | None:
        """Brings the wanted files, of one commit, where they are not here yet; None of a folder, where all of them have to be.

        The manifest is read first, and nothing is asked for where it names a file outside the folder.

        Raises:
            BundleError: the manifest is none, or names such a file; or the hub has other files than it says.
            HubError: the hub does not give them.
        """
        if self.snapshot is None:
            return None
        manifest = read_manifest(self.folder)
        for file in files_of(manifest):
            refuse_path_that_leaves(file, self.name)
        files = list(wanted(manifest))
        for file in files:
            self.snapshot.fetch(file)
        return Fetched(name=self.name, paths=frozenset(file.path for file in files))

    def open(self, wanted: Wanted, *, follow_links: bool = False) -> Bundle:
        """`Bundle.open`, of a bundle that is on the hub with the wanted files.

        Raises:
            BundleError: as `Bundle.open` and `fetch`.
        """
        return Bundle.open(self.folder, follow_links=follow_links, fetched=self.fetch(wanted))


def find_bundle(name: str | os.PathLike[str]) -> Place:
    """Finds what a user calls a bundle: a folder, or a name of the hub (`org/name`, `org/name@revision`, the address of its page).

    What exists on this machine is never looked for on the hub, and neither is a `Path`. That a folder is missing is found out when it is
    opened.

    Raises:
        UsageError: it is an address, but of no model's page.
        HubError, BundleError, MissingExtraError: there is no such folder, and the hub does not give a bundle of that name.
    """
    named = None if _is_there(name) or not isinstance(name, str) else hub_name(name)
    if named is None or not is_hub_id(named.id):
        return Place(folder=Path(name))
    snapshot = Snapshot.of(named)
    return Place(folder=snapshot.folder, snapshot=snapshot)


def with_revision(name: str | os.PathLike[str], revision: str | None, *, option: str = "revision") -> str | os.PathLike[str]:
    """A bundle's name with the branch, the tag or the commit of the hub that `option` says.

    >>> with_revision("org/name", "v2")
    'org/name@v2'

    Raises:
        UsageError: it is a folder, or has another revision already.
    """
    if revision is None:
        return name
    named = None if _is_there(name) or not isinstance(name, str) else hub_name(name)
    if named is None:
        raise UsageError(f"{option} {revision} names a commit of a hub repository, and bundle {os.fspath(name)} is a folder; leave one out")
    return str(named.at(revision, named_by=option))


def _is_there(name: str | os.PathLike[str]) -> bool:
    # os.path takes any name: pathlib raises at one with a zero, or of more letters than a name may have.
    return os.path.exists(name)  # noqa: PTH110
