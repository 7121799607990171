"""Native weights for the tiny bundle of `bundle_builder`: what its graph computes, as a layer without norms.

The layer's query is its bias alone, q for every token, so that softmax(rows q) weighs the rows; keys, values and the output are the rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from bundle_builder import EXACT, HIDDEN, describe, write_manifest
from onnx import numpy_helper

from cls_runtime.bundle.manifest import EngineParity, Manifest, read_manifest
from cls_runtime.engines.native.weights import (
    LANES,
    PANEL,
    Embeddings,
    HeadStep,
    Layer,
    NativeModel,
    OneRow,
    Product,
    packed_floats,
    packed_integers,
    padded,
)
from cls_runtime.engines.native.weights_file import write

NAMES = {"fp32": "native/weights_fp32.safetensors", "int8": "native/weights.safetensors"}


def add_native(folder: Path) -> Path:
    """Writes native weights for each of the bundle's variants that has a native form, with perfect figures."""
    manifest = read_manifest(folder)
    (folder / "native").mkdir()
    for name in [name for name in NAMES if name in manifest.variants]:
        write(native_model(folder, manifest, integers=name == "int8"), folder / NAMES[name])
    return describe_native(folder, EngineParity(parity={manifest.sentence_output: EXACT}, batch_invariance_max_abs=0.0))


def describe_native(folder: Path, parity: EngineParity | Mapping[str, EngineParity]) -> Path:
    """Rewrites the manifest with the native files as they are now, and these figures, of all variants or by variant."""
    manifest = read_manifest(folder)
    variants = dict(manifest.variants)
    for name in [name for name in NAMES if name in variants]:
        entry = variants[name]
        variants[name] = dataclasses.replace(
            entry,
            engines=("native", *(engine for engine in entry.engines if engine != "native")),
            engine_files={**entry.engine_files, "native": (describe(folder, NAMES[name]),)},
            engine_parity={"native": parity if isinstance(parity, EngineParity) else parity[name]},
        )
    write_manifest(folder, dataclasses.replace(manifest, variants=variants, fingerprint=""))
    return folder


def native_model(folder: Path, manifest: Manifest, *, integers: bool) -> NativeModel:
    """What the fp32 graph computes; with `integers` the products of the layer have int8 weights."""
    graph = onnx.load(folder / next(iter(manifest.variants.values())).files[0].path).graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    widths = {output: manifest.width(output) for output in manifest.recorded_outputs}
    widths["sentence"] = widths.pop(manifest.sentence_output)
    one_row = manifest.pooling == "cls" and not manifest.token_rows
    identity = np.eye(HIDDEN, dtype=np.float32)
    query = _padded(arrays["q"])
    square = _product(identity, integers=integers)
    nothing = _product(np.zeros((HIDDEN, HIDDEN), np.float32))
    all_rows = np.zeros((PANEL, 3 * PANEL), dtype=np.float32)
    all_rows[:HIDDEN, PANEL : PANEL + HIDDEN] = identity
    all_rows[:HIDDEN, 2 * PANEL : 2 * PANEL + HIDDEN] = identity
    layer = Layer(
        query_key_value=None
        if one_row
        else _product(all_rows, bias=np.concatenate([query, np.zeros(2 * PANEL, np.float32)]), integers=integers),
        one_row=OneRow(
            query=_product(np.zeros_like(identity), bias=query), key_by_head=_product(identity), value_by_head=_product(identity)
        )
        if one_row
        else None,
        attention_output=square,
        up=nothing,
        down=nothing,
        attention_norm=None,
        feed_forward_norm=None,
        activation="relu",
        pre_norm=True,
    )
    heads = {}
    if "pooler" in widths:
        heads["pooler"] = (HeadStep(product=_product(arrays["P"]), activation="tanh"),)
    if "logits" in widths:
        heads["logits"] = (HeadStep(product=_product(arrays["L"])),)
    return NativeModel(
        hidden_size=HIDDEN,
        heads=1,
        head_size=HIDDEN,
        max_length=manifest.max_length,
        mean_pooled=manifest.pooling == "mean",
        embeddings=Embeddings(
            words=_padded(arrays["E"]), token_types=_padded(arrays["T"]) if "token_type_ids" in manifest.inputs else None
        ),
        layers=(layer,),
        output_heads=heads,
        widths=widths,
        recipe={"made": "by hand"},
    )


def _product(weight: np.ndarray, *, bias: np.ndarray | None = None, integers: bool = False) -> Product:
    weight = _padded(weight, -(-weight.shape[0] // PANEL) * PANEL)
    width = weight.shape[1]
    bias = np.zeros(width, np.float32) if bias is None else bias
    if not integers:
        return Product(bias=bias, floats=packed_floats(weight))
    scales = np.maximum(np.abs(weight).max(0) / np.float32(127), np.float32(1e-9))
    whole = np.rint(weight / scales).astype(np.int8)
    return Product(bias=bias, integers=packed_integers(whole), scales=scales, sums=whole.sum(0, dtype=np.int32))


def _padded(array: np.ndarray, rows: int | None = None) -> np.ndarray:
    """With zeros behind each row up to a multiple of a panel, and below where `rows` are asked for."""
    wide = np.zeros((*array.shape[:-1], padded(array.shape[-1])), dtype=np.float32)
    wide[..., : array.shape[-1]] = array
    if rows is None:
        return wide
    return np.concatenate([wide, np.zeros((rows - len(wide), wide.shape[1]), np.float32)])


assert padded(HIDDEN, LANES) <= PANEL
