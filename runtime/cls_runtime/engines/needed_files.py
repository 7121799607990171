"""Which files of a bundle are needed to compute a variant on an engine: what is fetched of one that is on the hub."""

from __future__ import annotations

from collections.abc import Iterator

from cls_runtime.bundle.golden import GOLDEN_NAME
from cls_runtime.bundle.manifest import BundleFile, Manifest
from cls_runtime.engines.choice import choose, graph_variant

_CARD = "README.md"


def encoder_files(manifest: Manifest, *, variant: str, engine: str) -> Iterator[BundleFile]:
    """What an Encoder reads: the companions, and the graph that `choose` takes.

    Raises:
        UsageError, MissingExtraError, EngineError, BundleError: as `choose`.
    """
    choice = choose(manifest, engine=engine, variant=variant)
    yield from companions(manifest)
    yield from graph_files(manifest, variant=choice.variant, engine=choice.engine)


def companions(manifest: Manifest) -> Iterator[BundleFile]:
    """The files beside the graphs, without the golden vectors, and without what is not for this program: copies of a graph under another
    name, and the card, which its owner may have changed on the hub's page.
    """
    graphs = {file.sha256 for entry in manifest.variants.values() for file in entry.files}
    return (file for file in manifest.files if file.path not in (GOLDEN_NAME, _CARD) and file.sha256 not in graphs)


def golden_files(manifest: Manifest) -> Iterator[BundleFile]:
    """The golden vectors."""
    return (file for file in manifest.files if file.path == GOLDEN_NAME)


def graph_files(manifest: Manifest, *, variant: str, engine: str) -> tuple[BundleFile, ...]:
    """The graph of a variant and its weights, in the form that an engine reads; nothing of a variant that the bundle lacks."""
    entry = manifest.variants.get(graph_variant(variant))
    return () if entry is None else entry.engine_files.get(engine, entry.files)
