"""Compares two bundles: whether their vectors may be mixed, and what an upgrade changes.

`compatible` and `require_compatible` read the manifests alone, so that vectors of another bundle do not get into an index unnoticed.
`compare_bundles`, the work behind `cls-verify --compare`, encodes texts with both bundles and measures.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import TOKENIZER_FILES, Manifest, ParityFigures, graph_hashes
from cls_runtime.bundle.parity import THRESHOLDS, parity_figures, shortfalls, thresholds_for
from cls_runtime.bundle.places import Place, find_bundle
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.engines.devices import Device
from cls_runtime.engines.needed_files import encoder_files, golden_files
from cls_runtime.errors import CheckFailedError, UsageError
from cls_runtime.verifying.neighbours import NeighbourFigures, compare_neighbours
from cls_runtime.verifying.text_rows import TextRows
from cls_runtime.verifying.vector_checks import as_computed_with_report, quoted, row_in_words

_MADE_OF = {"cls": "the CLS row", "mean": "the mean of the tokens' rows"}


@dataclass(frozen=True, kw_only=True)
class ComparedBundle:
    """One of the two bundles, and the variant and engine that it was compared on."""

    bundle: Path
    source: str
    fingerprint: str
    variant: str
    engine: str
    max_length: int
    widths: Mapping[str, int]
    truncated: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The differences between the bundle in use (`first`) and the one to upgrade to (`second`).

    Attributes:
        differences: the settings in the manifests that decide vectors and differ, in words; empty if the fingerprints are equal.
        texts: how many texts were encoded with both.
        other_tokens: texts that get other tokens from the second bundle.
        other_truncation: texts that the two truncate differently.
        figures: for each output that both have with the same width, the second bundle's vectors against the first's.
        neighbours: how many of a text's nearest neighbours stay; None if the widths differ or there are too few texts.
        objections: why the two are not interchangeable, in words; empty if they are.
    """

    first: ComparedBundle
    second: ComparedBundle
    differences: tuple[str, ...]
    texts: int
    other_tokens: int
    other_truncation: int
    figures: Mapping[str, ParityFigures]
    neighbours: NeighbourFigures | None
    objections: tuple[str, ...]

    @property
    def interchangeable(self) -> bool:
        """Whether vectors of the second can replace those of the first, within the looser variant's thresholds."""
        return not self.objections


def compatible(manifest: Manifest, other: Manifest | str) -> bool:
    """Whether vectors of two bundles may share an index: whether their fingerprints are equal.

    Args:
        manifest: of the bundle in use.
        other: the other bundle's manifest, or the fingerprint that was stored with an index.
    """
    return manifest.fingerprint == (other if isinstance(other, str) else other.fingerprint)


def require_compatible(manifest: Manifest, other: Manifest | str, *, variant: str | None = None, other_variant: str | None = None) -> None:
    """Raises if vectors of two bundles, or of two precisions if both variants are given, must not be mixed.

        with Encoder.load(folder) as encoder:
            require_compatible(encoder.manifest, index["fingerprint"], variant=encoder.info.variant, other_variant=index["variant"])

    Args:
        manifest: of the bundle in use.
        other: the other bundle's manifest, or the fingerprint that was stored with an index.
        variant: the precision in use; None if it does not matter.
        other_variant: the precision that the index was built with.

    Raises:
        CheckFailedError: the fingerprints differ, or the variants do.
    """
    if not compatible(manifest, other):
        theirs = other if isinstance(other, str) else other.fingerprint
        reasons = "" if isinstance(other, str) else f" ({'; '.join(differences(manifest, other))})"
        raise CheckFailedError(
            f"this bundle's vectors have fingerprint {manifest.fingerprint[:12]}, the others {theirs[:12]}{reasons}; "
            "they are not comparable: use the bundle that they came from, or encode the texts again"
        )
    if variant is not None and other_variant is not None and variant != other_variant:
        raise CheckFailedError(
            f"this bundle's vectors are {variant}, the others {other_variant}, of the same model: close, but not equal; "
            f"load the bundle with variant={other_variant!r}, or leave the variants out if the difference does not matter"
        )


def differences(manifest: Manifest, other: Manifest) -> tuple[str, ...]:
    """What makes two fingerprints differ, in words; empty where they are equal."""
    pairs: dict[str, tuple[object, object]] = {
        "weights": (manifest.source.weights_sha256[:12], other.source.weights_sha256[:12]),
        "tokenizer": (_tokenizer(manifest), _tokenizer(other)),
        "architecture": (manifest.architecture, other.architecture),
        "maximum length": (manifest.max_length, other.max_length),
        "inputs": (", ".join(manifest.inputs), ", ".join(other.inputs)),
        "pooling": (_pooling(manifest), _pooling(other)),
        "Dense modules": (_listed(manifest.source_pooling.dense), _listed(other.source_pooling.dense)),
        "outputs": (_outputs(manifest), _outputs(other)),
        "schema version": (manifest.schema_version, other.schema_version),
        "token rows": (manifest.token_rows, other.token_rows),
        **_uses(manifest, other),
    } | {f"graph of {name}": (_graph(manifest, name), _graph(other, name)) for name in {**manifest.variants, **other.variants}}
    return tuple(f"{name}: {ours} -> {theirs}" for name, (ours, theirs) in pairs.items() if ours != theirs)


def compare_bundles(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str],
    *,
    texts: Sequence[Text] | None = None,
    variant: str = "auto",
    engine: str = "auto",
    device: Device | None = None,
    follow_links: bool = False,
) -> Comparison:
    """Encodes texts with two bundles and reports what changes from the first to the second. It measures, and raises no objection itself.

    Two bundles are interchangeable if, for every output that both have, their vectors agree within the thresholds of the looser variant,
    with the same width, maximum length and predicted labels, and if default prompt, `truncate_dim` and normalization are the same. Vectors
    are compared as the graph computes them.

    Args:
        path: the bundle in use, a folder or a name on the hub (`org/name`, `org/name@revision`).
        other: the bundle to compare it with, likewise; it may be another revision of the same one.
        texts: your own texts; None for the first bundle's golden texts.
        variant: for both bundles; `auto` takes for each what `Encoder.load` would take.
        engine: for both.
        device: for both, as in `Encoder.load`.
        follow_links: read the files of both wherever links in their folders lead.

    Raises:
        BundleError, UsageError, MissingExtraError, EngineError, TextError: as `Encoder.load` and `Encoder.encode`.
    """
    if texts is not None and not texts:
        raise UsageError("the list of texts is empty, expected at least one")
    places = find_bundle(path), find_bundle(other)
    probes: Sequence[Text] = list(texts) if texts is not None else _golden_texts(places[0], follow_links=follow_links)
    first, second = (_encoded(place, probes, variant=variant, engine=engine, device=device, follow_links=follow_links) for place in places)
    looser = max(first.about.variant, second.about.variant, key=list(THRESHOLDS).index)
    shared = [name for name, rows in first.rows.items() if name in second.rows and rows.vectors.shape == second.rows[name].vectors.shape]
    figures = {name: second.rows[name].figures(first.rows[name].vectors) for name in shared}
    objections = [
        f"{name} is {width} numbers wide, in the other {second.about.widths[name]}"
        for name, width in first.about.widths.items()
        if second.about.widths.get(name, width) != width
    ]
    if first.about.max_length != second.about.max_length:
        objections.append(f"texts are truncated at {first.about.max_length} tokens, in the other at {second.about.max_length}")
    objections += [
        f"{name} cannot be compared, a text has another number of tokens"
        for name, rows in first.rows.items()
        if name in second.rows and len(rows.texts) != len(second.rows[name].texts)
    ]
    uses = {
        "unit length": tuple(each.manifest.source_pooling.normalize for each in (first, second)),
        **_uses(first.manifest, second.manifest),
    }
    objections += [f"{name}: {ours}, in the other {theirs}" for name, (ours, theirs) in uses.items() if ours != theirs]
    for name in shared:
        objections += _objections(name, probes, first.rows[name], second.rows[name], looser)
    sentence = first.manifest.sentence_output
    neighbours = compare_neighbours(first.rows[sentence].vectors, second.rows[sentence].vectors) if sentence in shared else None
    return Comparison(
        first=first.about,
        second=second.about,
        differences=differences(first.manifest, second.manifest),
        texts=len(probes),
        other_tokens=sum(a != b for a, b in zip(first.tokens, second.tokens, strict=True)),
        other_truncation=_changed(first.removed, second.removed),
        figures=figures,
        neighbours=neighbours,
        objections=tuple(objections),
    )


@dataclass(frozen=True)
class _Encoded:
    """A bundle's answer: by output its rows, each text's tokens, and by text how many tokens were cut off."""

    about: ComparedBundle
    manifest: Manifest
    rows: dict[str, TextRows]
    tokens: list[tuple[int, ...]]
    removed: dict[int, int]


def _golden_texts(place: Place, *, follow_links: bool) -> Sequence[Text]:
    return read_golden(place.open(golden_files, follow_links=follow_links).companion(GOLDEN_NAME)).inputs


def _encoded(place: Place, texts: Sequence[Text], *, variant: str, engine: str, device: Device | None, follow_links: bool) -> _Encoded:
    bundle = place.open(partial(encoder_files, variant=variant, engine=engine), follow_links=follow_links)
    tokens = TextTokenizer.from_bundle(bundle).tokenize(texts).token_ids()
    with Encoder.load(
        bundle.name,
        variant=variant,
        engine=engine,
        device=device,
        on_overflow="truncate",
        on_invalid="keep",
        fingerprint=bundle.manifest.fingerprint,
        follow_links=follow_links,
    ) as encoder:
        encoded = {name: as_computed_with_report(encoder, texts, output=name) for name in encoder.manifest.recorded_outputs}
        rows: dict[str, TextRows] = {name: TextRows.of(vectors) for name, (vectors, _) in encoded.items()}
        removed = {item.index: item.removed_tokens for item in encoded[encoder.manifest.sentence_output][1].truncated}
        about = ComparedBundle(
            bundle=bundle.folder,
            source=bundle.manifest.source.name,
            fingerprint=bundle.manifest.fingerprint,
            variant=encoder.info.variant,
            engine=encoder.info.engine,
            max_length=bundle.manifest.max_length,
            widths={name: item.vectors.shape[1] for name, item in rows.items()},
            truncated=len(removed),
        )
    return _Encoded(about, bundle.manifest, rows, tokens, removed)


def _objections(output: str, texts: Sequence[Text], before: TextRows, after: TextRows, variant: str) -> list[str]:
    objections = []
    first, second = before.vectors, after.vectors
    figures = parity_figures(first, second)
    if missed := shortfalls(figures, thresholds_for(variant, output)):
        row = figures.worst_text
        worst = quoted(before.texts[row], texts[before.texts[row]])
        objections.append(f"{output}: {'; '.join(missed)}; worst is {worst}: {row_in_words(first[row], second[row])}")
    if output == "logits" and first.shape[1] > 1 and (other := np.flatnonzero(first.argmax(1) != second.argmax(1))).size:
        objections.append(
            f"logits: another label for {other.size} of {len(texts)} texts, the first is {quoted(int(other[0]), texts[other[0]])}"
        )
    return objections


def _changed(first: Mapping[int, int], second: Mapping[int, int]) -> int:
    return sum(first.get(index, 0) != second.get(index, 0) for index in {*first, *second})


def _tokenizer(manifest: Manifest) -> str:
    return " and ".join(file.sha256[:12] for file in manifest.files if file.path in TOKENIZER_FILES) or "none"


def _pooling(manifest: Manifest) -> str:
    pooling = manifest.source_pooling
    parts = [
        pooling.mode or "none",
        *(["normalize"] if pooling.normalize else []),
        *([] if pooling.include_prompt else ["without the prompt"]),
    ]
    return ", ".join(parts)


def _uses(manifest: Manifest, other: Manifest) -> dict[str, tuple[object, object]]:
    """What else makes other vectors of the same rows, by name: of each of the two."""
    return {
        "sentence's vector": (_MADE_OF[manifest.pooling], _MADE_OF[other.pooling]),
        "default prompt": (repr(manifest.default_prompt), repr(other.default_prompt)),
        "numbers of a vector": (manifest.truncate_dim or "all", other.truncate_dim or "all"),
    }


def _graph(manifest: Manifest, variant: str) -> str:
    """The hashes of a variant's files, an engine's own form behind the engine's name; none where the bundle lacks the variant."""
    if variant not in manifest.variants:
        return "none"
    forms = graph_hashes(manifest.variants[variant])
    return " and ".join(
        " ".join([*([engine] if engine else []), *(digest[:12] for digest in digests)]) for engine, digests in forms.items()
    )


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _outputs(manifest: Manifest) -> str:
    return ", ".join(f"{output.name} {output.width}" for output in manifest.outputs)
