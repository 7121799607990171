"""A bundle laid out otherwise: weights beside the graph, links in the place of files, as the hub's cache and trees of links have it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import shutil
from pathlib import Path

import onnx
from bundle_builder import describe, write_manifest

from cls_runtime.bundle.manifest import read_manifest


def with_external_data(folder: Path, location: str) -> Path:
    """Moves the embedding table of the graph to where `location` says; the hashes are made to fit. Gives the weights' file."""
    model = onnx.load(folder / "onnx/model.onnx")
    table = model.graph.initializer[0]
    data = folder / "onnx" / "model.onnx_data"
    data.write_bytes(table.raw_data)
    onnx.external_data_helper.set_external_data(table, location=location)
    table.ClearField("raw_data")
    (folder / "onnx/model.onnx").write_bytes(model.SerializeToString())
    list_files(folder, "onnx/model.onnx")
    return data


def list_files(folder: Path, *paths: str) -> None:
    """Names these as the fp32 variant's files."""
    manifest = read_manifest(folder)
    fp32 = dataclasses.replace(manifest.variants["fp32"], files=tuple(describe(folder, path) for path in paths))
    write_manifest(folder, dataclasses.replace(manifest, variants={"fp32": fp32}, fingerprint=""))


def linked(folder: Path, place: Path, *, to: Path | None = None) -> Path:
    """A tree at `place` of links to the files of `folder`, or to their copies in `to`, as the hub's cache has them."""
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        target = path
        if to is not None:
            target = to / hashlib.sha256(path.read_bytes()).hexdigest()
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
        link = place / path.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(target, link.parent))
    return place


def in_the_cache(folder: Path, home: Path) -> Path:
    """The bundle as a snapshot in a cache of the hub at `home`."""
    repository = home / "models--org--name"
    return linked(folder, repository / "snapshots" / ("0" * 40), to=repository / "blobs")
