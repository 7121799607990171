"""Writes a graph as an ONNX file, with its weights beside it where protobuf could not hold them."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from cls_runtime import __version__
from cls_runtime.bundle.files import sha256
from cls_runtime.bundle.manifest import BundleFile

EXTERNAL_DATA_BYTES = 2 * 10**9  # protobuf's limit is 2 GiB for the whole message


def write_graph(model: ir.Model, folder: Path, name: str, *, external_above: int = EXTERNAL_DATA_BYTES) -> tuple[BundleFile, ...]:
    """Writes `folder/name`, and `folder/name_data` where the weights have more than `external_above` bytes.

    Returns:
        The files, the ONNX file first.
    """
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    model.producer_name, model.producer_version = "cls-export", __version__
    names = (name, f"{name}_data") if save_graph(model, path, external_above=external_above) else (name,)
    return tuple(bundle_file(folder, each) for each in names)


def save_graph(model: ir.Model, path: Path, *, external_above: int = EXTERNAL_DATA_BYTES) -> bool:
    """Saves a graph, with its weights beside it where they have more than `external_above` bytes; whether they are."""
    size_bytes = sum(value.const_value.nbytes for value in model.graph.initializers.values() if value.const_value is not None)
    external = size_bytes > external_above
    ir.save(model, path, external_data=f"{path.name}_data" if external else None)
    return external


def bundle_file(folder: Path, name: str) -> BundleFile:
    """The manifest's entry of a file that is in place."""
    path = folder / name
    return BundleFile(path=name, sha256=sha256(path), size_bytes=path.stat().st_size)
