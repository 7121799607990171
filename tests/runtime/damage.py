"""Ways to damage a tiny golden bundle so that no hash shows it: every file's hash and size is made to fit afterwards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from golden_bundle import TEXTS, agree, build_golden_bundle
from onnx import helper, numpy_helper

from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.bundle.parity import parity_figures

FP32, INT8 = Path("onnx", "model.onnx"), Path("onnx", "model_int8.onnx")
LETTER_A = 5  # its place in the vocabulary


@dataclass(frozen=True)
class Damage:
    """What is done to a bundle, which check finds it on which variant, and what it says."""

    do: Callable[[Path], None]
    variant: str | None
    check: str
    message: str


def one_weight(folder: Path) -> None:
    """One number of the embedding of the letter a."""

    def change(weights: np.ndarray) -> np.ndarray:
        weights[LETTER_A, 0] += 0.5
        return weights

    edit(folder, FP32, "E", change)


def other_tokenizer(folder: Path) -> None:
    """Two words of the vocabulary have changed places."""
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat"], vocabulary["dog"] = vocabulary["dog"], vocabulary["cat"]
    path.write_text(json.dumps(content))
    agree(folder)


def other_row(folder: Path) -> None:
    """The graph takes the second token's row, not the first's."""
    edit(folder, FP32, "zero", lambda place: place + 1)


def int8_scale(folder: Path) -> None:
    """The scale of the quantized embeddings is off by 10%."""
    edit(folder, INT8, "E_scale", lambda scale: scale * np.float32(1.1))


def other_maximum(folder: Path) -> None:
    """Texts are cut four tokens earlier."""
    agree(folder, max_length=12)


DAMAGES: dict[str, Damage] = {
    "one weight changed": Damage(
        one_weight, "fp32", "golden cls", "1 of 9 texts differ, which suggests other weights for single words or positions"
    ),
    "tokenizer swapped": Damage(other_tokenizer, None, "tokens", "the tokenizer differs from the exported one"),
    "wrong pooling": Damage(
        other_row, "fp32", "golden cls", "greatly, which suggests another row of the sequence, another pooling or another model"
    ),
    "int8 scale off by 10%": Damage(int8_scale, "int8", "golden cls", "which suggests other scales or another precision"),
    "other maximum length": Damage(other_maximum, None, "tokens", "texts are truncated at 12 tokens instead of 16"),
}


def build_damageable(folder: Path) -> Path:
    """A golden bundle with fp32, and with int8: the word embeddings quantized with one scale."""
    build_golden_bundle(folder, variants={"fp32": None, "int8": None})
    model = onnx.load(folder / INT8)
    (table,) = [item for item in model.graph.initializer if item.name == "E"]
    weights = numpy_helper.to_array(table)
    scale = np.float32(np.abs(weights).max() / 127)
    model.graph.initializer.remove(table)
    model.graph.initializer.append(numpy_helper.from_array(np.rint(weights / scale).astype(np.int8), "E_int8"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(scale), "E_scale"))
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["E_int8", "E_scale"], ["E"]))
    onnx.save(model, folder / INT8)
    agree(folder)
    record_parity(folder, "int8")
    return folder


def record_parity(folder: Path, variant: str) -> None:
    """Writes a variant's figures against the golden vectors into the manifest, as an export does."""
    golden = read_golden(folder / GOLDEN_NAME)
    with Encoder.load(folder, variant=variant, engine="onnxruntime", on_overflow="truncate") as encoder:
        parity = {name: parity_figures(rows, encoder.encode(TEXTS, output=name)) for name, rows in golden.vectors.items()}
    manifest = read_manifest(folder)
    entry = dataclasses.replace(manifest.variants[variant], parity=parity)
    agree(folder, dataclasses.replace(manifest, variants={**manifest.variants, variant: entry}))


def edit(folder: Path, graph: Path, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Changes one initializer of a graph."""
    model = onnx.load(folder / graph)
    (initializer,) = [item for item in model.graph.initializer if item.name == name]
    initializer.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(initializer).copy())), name))
    onnx.save(model, folder / graph)
    agree(folder)
