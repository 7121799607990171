"""A bundle on the hub: its files as they are needed, through huggingface_hub, whose cache, tokens, mirrors and offline mode are its own.

The package is imported when a bundle of the hub is asked for, and nothing of it is changed: `HF_HOME`, `HF_TOKEN`, `HF_ENDPOINT`,
`HF_HUB_OFFLINE` and what else it reads work as with any other model.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.bundle.files import NO_ROOM
from cls_runtime.bundle.hub_cache import is_commit, with_whole_hash
from cls_runtime.bundle.hub_names import HubName
from cls_runtime.bundle.manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, BundleFile
from cls_runtime.errors import BundleError, ClsError, HubError, MissingExtraError, is_shortage

_LIBRARY = "huggingface_hub"
_LONGEST_REASON = 300
_LOG_IN = "check the name, and log in with `hf auth login` or HF_TOKEN as somebody who may"


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """One commit of a repository that holds a bundle. The manifest is in `folder`, in the cache; `fetch` brings the rest."""

    at: HubName
    folder: Path

    @classmethod
    def of(cls, named: HubName) -> Snapshot:
        """Finds the commit of a name, by the hub or, where that is not reached, by the cache, and fetches the manifest.

        Raises:
            HubError: the hub does not give it, and the cache does not have it.
            BundleError: what is there is no bundle.
            MissingExtraError: huggingface_hub is not installed.
        """
        with asking(f"there is no folder {named}, and the hub does not give a bundle of this name", named):
            named = with_whole_hash(named)
            path = _cached(named, MANIFEST_NAME) if named.revision is not None and is_commit(named.revision) else None
            path = _manifest(named) if path is None else path
        return cls(at=HubName(id=named.id, revision=path.parent.name), folder=path.parent)

    def fetch(self, file: BundleFile) -> None:
        """Brings a file of the bundle, which is in the folder afterwards and has its size.

        Raises:
            HubError: the hub is not reached, or refuses.
            BundleError: it has no such file, or one of another size; or the one in the cache was cut.
        """
        with asking(f"{file.path} of {self.at} cannot be fetched from the hub", self.at):
            path = _cached(self.at, file.path)
            if path is None:
                size = None
                with contextlib.suppress(Exception):  # asked again by what fetches it, which may go on all the same
                    size = _size_there(self.at, file.path)
                if size is not None and size != file.size_bytes:
                    raise BundleError(
                        f"{file.path} of {self.at} on the hub has {size:,} bytes, its manifest says {file.size_bytes:,}; the repository is "
                        "damaged or half replaced: upload the bundle again, or name another revision"
                    )
                path = _download(self.at, file.path)
            size = path.stat().st_size
        if size != file.size_bytes:
            raise BundleError(
                f"{path} has {size:,} bytes, the manifest says {file.size_bytes:,}; the hub's cache is damaged, delete {path.resolve()} "
                "and load the bundle again"
            )


@contextlib.contextmanager
def asking(refused: str, named: HubName) -> Iterator[None]:
    """Around whatever asks the hub for `named`: what goes wrong is one line, which begins with `refused` and says what to do.

    Raises:
        HubError: what the library raised.
        BundleError: the repository is there and has not got the file.
        MissingExtraError: huggingface_hub is not installed.
    """
    try:
        from huggingface_hub import hf_hub_download  # noqa: F401  which sets up the library's logger
    except ImportError:
        raise MissingExtraError(f"{refused}: that needs {_LIBRARY}, run: pip install 'cls-export[hub]'") from None
    try:
        with _quiet():
            yield
    except ClsError:
        raise
    except Exception as error:
        if is_shortage(error):
            raise
        kind, reason = _told(error, named)
        raise kind(f"{refused}: {reason}") from None


def _told(error: Exception, named: HubName) -> tuple[type[BundleError], str]:
    """What an error of the library means, in words, and what to do."""
    from huggingface_hub import constants, errors

    cause = error.__cause__ if isinstance(error, (errors.LocalEntryNotFoundError, RuntimeError)) and error.__cause__ else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.OfflineModeIsEnabled):
        return HubError, "HF_HUB_OFFLINE is set and the cache does not have it; fetch it once with the network on"
    if isinstance(cause, errors.GatedRepoError):
        return HubError, f"{named.id} is gated; ask for access on its page, and log in with `hf auth login` or HF_TOKEN"
    if isinstance(cause, errors.RepositoryNotFoundError):
        return HubError, f"it has no {named.id} for you; {_LOG_IN}"
    if isinstance(cause, errors.RevisionNotFoundError):
        return HubError, f"{named.id} has no revision {named.revision}; name a branch, a tag or a commit that it has"
    if isinstance(cause, errors.EntryNotFoundError) and not isinstance(cause, errors.LocalEntryNotFoundError):
        return BundleError, f"{named} has no such file; the repository is damaged or half replaced"
    if isinstance(cause, OSError) and cause.errno in NO_ROOM:
        return HubError, f"the disk of its cache is full ({constants.HF_HUB_CACHE}); make room, or set HF_HOME to another place"
    if isinstance(cause, PermissionError):
        return HubError, f"its cache cannot be written to ({one_line(cause)}); set HF_HOME to another place"
    if status in (401, 403):
        return HubError, f"the hub refuses you (HTTP {status}); {_LOG_IN}"
    if status is not None:
        return HubError, f"the hub answers HTTP {status} ({one_line(cause)}); try again later"
    return HubError, f"{one_line(cause)}; check the network, a proxy, and HF_ENDPOINT"


def one_line(error: BaseException) -> str:
    """What an error of the library says, on one line of at most 300 characters, without the token, or a password in an address."""
    from huggingface_hub import get_token

    text = re.sub(r"//[^/@\s]+@", "//", " ".join(str(error).split())) or type(error).__name__
    token = get_token()
    text = text.replace(token, "(token)") if token else text
    return "".join(character if character.isprintable() else "?" for character in text[:_LONGEST_REASON])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library's remarks off the terminal: that no token was sent, that a request is made again."""
    logger = logging.getLogger(_LIBRARY)
    level = logger.level
    if level == logging.ERROR:  # perhaps by another thread's call, which puts it back
        yield
        return
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _cached(named: HubName, name: str) -> Path | None:
    """A file of a commit where the cache has it."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(named.id, name, revision=named.revision)
    return Path(found) if isinstance(found, str) else None


def _size_there(named: HubName, name: str) -> int | None:
    """How many bytes the hub says that a file has, by one question without patience."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(named.id, name, revision=named.revision)
    return get_hf_file_metadata(url, timeout=constants.HF_HUB_ETAG_TIMEOUT).size


def _manifest(named: HubName) -> Path:
    """Fetches the manifest, or finds it in the cache where the hub does not answer: that a folder's name was mistyped is soon told."""
    from huggingface_hub import errors

    unanswered: Exception | None = None
    try:
        size = _size_there(named, MANIFEST_NAME)
        if size is not None and size > MAX_MANIFEST_BYTES:
            raise BundleError(
                f"{MANIFEST_NAME} of {named} on the hub has {size:,} bytes, expected at most {MAX_MANIFEST_BYTES:,}; it is no bundle's"
            )
    except BundleError:
        raise
    except Exception as error:  # noqa: BLE001  an answer is told by what fetches it, with the cache in mind
        unanswered = error if getattr(error, "response", None) is None else None
    try:
        return _download(named, MANIFEST_NAME, only_cached=unanswered is not None)
    except errors.LocalEntryNotFoundError as error:  # which is an EntryNotFoundError, and says nothing about what the hub has
        raise unanswered or error  # noqa: B904  told by `asking`, from its cause where it has one
    except errors.EntryNotFoundError:
        raise BundleError(
            f"there is no folder {named}, and the model {named.id} on the hub is no bundle, it has no {MANIFEST_NAME} at "
            f"{named.revision or 'its main branch'}; to make a bundle of it: cls-export {named}"
        ) from None


def _download(named: HubName, name: str, *, only_cached: bool = False) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(named.id, name, revision=named.revision, local_files_only=only_cached))
