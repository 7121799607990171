"""A bundle of the hub from the cache alone: what `local_files_only` asks for."""

from __future__ import annotations

import os
from pathlib import Path

from cls_runtime.bundle.hub import asking
from cls_runtime.bundle.hub_names import HubName, hub_name, is_hub_id
from cls_runtime.bundle.manifest import MANIFEST_NAME, read_manifest
from cls_runtime.bundle.places import find_bundle
from cls_runtime.engines.needed_files import encoder_files
from cls_runtime.errors import HubError

Name = str | os.PathLike[str]
_ONCE = "load it once without local_files_only"


def cached_commit(named: Name) -> Name:
    """The name of a bundle with the commit that the cache has, which needs no network; a folder as it is.

    Raises:
        HubError: the cache does not have it.
        MissingExtraError: huggingface_hub is not installed.
    """
    hub = _on_the_hub(named)
    if hub is None:
        return named
    with asking(f"local_files_only, and {hub} cannot be looked for in the cache", hub):
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(hub.id, MANIFEST_NAME, revision=hub.revision)
    if not isinstance(found, str):
        raise HubError(f"local_files_only, and the cache does not have the bundle {hub}; {_ONCE}")
    return str(HubName(id=hub.id, revision=Path(found).parent.name))


def require_cached(named: Name, *, engine: str, variant: str) -> None:
    """Checks that the cache has all files of a bundle that an Encoder reads.

    Raises:
        HubError: it lacks one.
        UsageError, MissingExtraError, EngineError, BundleError: as `Encoder.load`.
    """
    if _on_the_hub(named) is None:
        return
    folder = find_bundle(named).folder
    for file in encoder_files(read_manifest(folder), variant=variant, engine=engine):
        if not (folder / file.path).exists():
            raise HubError(f"local_files_only, and the cache lacks {file.path} of {named}; {_ONCE}")


def _on_the_hub(named: Name) -> HubName | None:
    if not isinstance(named, str) or os.path.exists(named):  # noqa: PTH110  pathlib raises at some names
        return None
    hub = hub_name(named)
    return hub if hub is not None and is_hub_id(hub.id) else None
