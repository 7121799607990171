"""The tiny bundle with golden vectors, so that `verify` has something to hold it against; and ways to damage it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from bundle_builder import build_bundle, describe, write_manifest

from cls_runtime import Bundle, Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, write_golden
from cls_runtime.bundle.manifest import Manifest, read_manifest
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.verifying.text_rows import TextRows
from cls_runtime.verifying.vector_checks import as_computed

# From nothing to far over the tiny model's 16 tokens.
TEXTS = ("a", "the cat sleeps", "", "dog runs, the cat!", "xyz 123", "the dog sleeps " * 20, "?", "running-sleeping.", "cat" * 9)


def build_golden_bundle(folder: Path, **options: object) -> Path:
    """`build_bundle`, with golden vectors of its own outputs."""
    build_bundle(folder, **options)
    with Encoder.load(folder, variant=next(iter(read_manifest(folder).variants)), on_overflow="truncate", on_invalid="keep") as encoder:
        vectors = {name: as_computed(encoder, TEXTS, output=name) for name in encoder.manifest.recorded_outputs}
        rows = vectors.pop("tokens", None)
    tokenized = TextTokenizer.from_bundle(Bundle.open(folder)).tokenize(TEXTS)
    tokens = tuple(tokenized.token_ids())
    positions = None
    if rows is not None:
        vectors["tokens"] = TextRows.of(rows).vectors
        positions = tuple(tuple(sampled_positions(len(ids)).tolist()) for ids in tokens)
    replace_golden(folder, Golden(texts=TEXTS, vectors=vectors, token_ids=tokens, row_positions=positions))
    return folder


def replace_golden(folder: Path, golden: Golden) -> None:
    """Writes golden vectors, and a manifest that agrees with them."""
    write_golden(folder / GOLDEN_NAME, golden)
    manifest = read_manifest(folder)
    if GOLDEN_NAME not in [file.path for file in manifest.files]:
        manifest = dataclasses.replace(manifest, files=(*manifest.files, describe(folder, GOLDEN_NAME)))
    agree(folder, manifest)


def agree(folder: Path, manifest: Manifest | None = None, **changes: object) -> None:
    """Rewrites the manifest with `changes` and with the hashes and sizes that the files have now: damage that no hash can show."""
    manifest = manifest or read_manifest(folder)
    variants = {
        name: dataclasses.replace(variant, files=tuple(describe(folder, file.path) for file in variant.files))
        for name, variant in manifest.variants.items()
    }
    files = tuple(describe(folder, file.path) for file in manifest.files)
    write_manifest(folder, dataclasses.replace(manifest, variants=variants, files=files, fingerprint="", **changes))


def nudged(vectors: np.ndarray, row: int, by: float) -> np.ndarray:
    """A copy of `vectors` with one number of one row changed."""
    changed = vectors.copy()
    changed[row, 0] += by
    return changed
