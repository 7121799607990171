"""A bundle goes to the hub: in one commit, into a repository that holds nothing else, and where no one but its owner sees it."""

from __future__ import annotations

import contextlib
import glob
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cls_exporter.writing.publish import paths_in_manifest
from cls_runtime import __version__
from cls_runtime.bundle.hub import asking
from cls_runtime.bundle.hub_names import HubName, is_hub_id
from cls_runtime.bundle.manifest import MANIFEST_NAME
from cls_runtime.errors import HubError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# Every repository may have them, and whoever made it wrote them.
_ANYBODYS = {"README.md", ".gitattributes"}


@dataclass(frozen=True, kw_only=True)
class HubTarget:
    """Where to: a repository by its whole name. Not `public` is private; with `force` it may hold files that no export wrote."""

    repository: str
    public: bool = False
    force: bool = False


@dataclass(frozen=True, kw_only=True)
class Uploaded:
    """What an upload made."""

    url: str
    commit: str
    public: bool


@dataclass(frozen=True, kw_only=True)
class _There:
    """A repository as it is: its newest commit, and the paths in it, `own` those of an earlier bundle."""

    commit: str
    public: bool
    paths: frozenset[str]
    own: frozenset[str]


def check_target(name: str, *, public: bool = False, force: bool = False) -> HubTarget:
    """Finds out, before the minutes that an export takes, whether a bundle can be uploaded afterwards.

    Args:
        name: of the repository, `org/name`; `name` is the user's own.
        public: everybody may see it.
        force: it may hold files that no export wrote: those of the bundle's names are replaced, the others stay.

    Raises:
        UsageError: the name is none, nobody is logged in, or the repository is not one to upload to.
        HubError: the hub is not reached, or refuses the token.
        MissingExtraError: huggingface_hub is not installed.
    """
    option = f"--push-to-hub {name}"
    if not is_hub_id(name):
        raise UsageError(f"{option}: expected a repository of the hub, org/name or name")
    with _asking(f"{option} cannot be done", name) as api:
        from huggingface_hub import constants, get_token

        if constants.HF_HUB_OFFLINE:
            raise UsageError(f"{option} cannot be done while HF_HUB_OFFLINE is set; unset it, or leave the option out")
        if get_token() is None:
            raise UsageError(f"{option} needs a token with write access; log in with `hf auth login`, or set HF_TOKEN")
        user = str(api.whoami()["name"])
        target = HubTarget(repository=name if "/" in name else f"{user}/{name}", public=public, force=force)
        _refuse_what_is_there(target, _there(target))
    return target


def upload(folder: Path, target: HubTarget) -> Uploaded:
    """Makes the repository where there is none, and uploads a bundle as one commit, which deletes what an earlier bundle had more.

    Raises:
        HubError: it failed, or the repository is not one to upload to any more; the folder stays, and the message says how to go on.
    """
    visibility = "" if target.public else " --private"
    later = f"hf upload {target.repository} {shlex.quote(str(folder))} .{visibility}"
    failed = f"the bundle is complete in {folder} but not on the hub (to upload it later: {later})"
    try:
        with _asking(failed, target.repository) as api:
            from huggingface_hub import constants

            api.create_repo(target.repository, private=not target.public, exist_ok=True)
            there = _there(target)
            _refuse_what_is_there(target, there)
            new = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
            gone = sorted((there.own & there.paths) - new - _ANYBODYS) if there else []
            with _bars_on_a_terminal_only():
                commit = api.upload_folder(
                    repo_id=target.repository,
                    folder_path=folder,
                    commit_message=f"Upload a bundle made by cls-export {__version__}",
                    parent_commit=None if there is None else there.commit,  # what was looked at is what is changed
                    delete_patterns=[glob.escape(path) for path in gone] or None,
                )
            return Uploaded(url=f"{constants.ENDPOINT}/{target.repository}", commit=str(commit.oid), public=target.public)
    except UsageError as error:
        raise HubError(f"{failed}: {error}") from None


@contextlib.contextmanager
def _asking(refused: str, repository: str) -> Iterator[HfApi]:
    with asking(refused, HubName(id=repository)):
        from huggingface_hub import HfApi

        yield HfApi()


@contextlib.contextmanager
def _bars_on_a_terminal_only() -> Iterator[None]:
    """The library draws some of its bars everywhere."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()


def _there(target: HubTarget) -> _There | None:
    """The repository as it is; None where there is none, or none that this user may see."""
    from huggingface_hub import HfApi, errors, hf_hub_download

    try:
        info = HfApi().model_info(target.repository)
    except errors.GatedRepoError:
        raise
    except errors.RepositoryNotFoundError:
        return None
    paths = frozenset(item.rfilename for item in info.siblings or ())
    own: set[str] = set()
    if MANIFEST_NAME in paths:
        with contextlib.suppress(ValueError, RecursionError):  # a manifest that is none names nothing
            manifest = Path(hf_hub_download(target.repository, MANIFEST_NAME, revision=info.sha))
            own = {MANIFEST_NAME, *paths_in_manifest(manifest.read_bytes())}
    return _There(commit=str(info.sha), public=not info.private, paths=paths, own=frozenset(own))


def _refuse_what_is_there(target: HubTarget, there: _There | None) -> None:
    if there is None:
        return
    if there.public and not target.public:
        raise UsageError(
            f"{target.repository} on the hub is public, and uploads are private by default; add --public to publish the bundle, or "
            "name another repository"
        )
    if target.public and not there.public:
        raise UsageError(
            f"{target.repository} on the hub is private, so --public would change nothing; make it public on its page first, or leave "
            "--public out"
        )
    foreign = sorted(there.paths - there.own - _ANYBODYS)
    if foreign and not target.force:
        more = f" and {len(foreign) - 1} more" if len(foreign) > 1 else ""
        raise UsageError(
            f"{target.repository} on the hub holds {foreign[0]!r}{more}, which no export wrote; --force uploads anyway (files with the "
            "bundle's names are replaced, the others stay), or name another repository"
        )
