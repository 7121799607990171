"""What a variant's builder gives, and how it goes into a bundle."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from cls_exporter.graph.graph_file import bundle_file, write_graph
from cls_exporter.graph.multiply_adds import multiply_add_formulas
from cls_runtime.bundle.manifest import BundleFile, MultiplyAdds

FILE_NAMES: Mapping[str, tuple[str, ...]] = {
    "fp32": ("onnx/model.onnx",),
    "fp16": ("onnx/model_fp16.onnx",),
    "int8": ("onnx/model_int8.onnx", "onnx/model_quantized.onnx"),  # the second is the name that browsers ask for
}

# The engine whose form of a graph has its tokens packed, and what the file of it is called.
PACKED_ENGINE = "cuda"
_ENGINE_FILE_NAMES: Mapping[tuple[str, str], str] = {("fp16", PACKED_ENGINE): "onnx/model_fp16_packed.onnx"}


def engine_file(variant: str, engine: str) -> str:
    """Where the form of a graph that is for one engine goes."""
    return _ENGINE_FILE_NAMES.get((variant, engine), f"onnx/model_{variant}_{engine}.onnx")


@dataclass(frozen=True, kw_only=True)
class Built:
    """A variant's graph, how it was made, what it needs of the CPU, and what was tried, for the message if the gate refuses it.

    `engine_models` are other forms of the same graph, for engines that compute those faster. `notes` are for the report.
    """

    model: ir.Model
    engine_models: Mapping[str, ir.Model] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()
    tried: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Written:
    """A variant whose files are in the bundle's folder.

    Attributes:
        built: what they were written from.
        files: the graph, and its weights where they are in a file of their own.
        engine_files: the same of each engine's own form.
        copies: the graph under its other names.
        multiply_adds: the graph's work, by arithmetic.
    """

    built: Built
    files: tuple[BundleFile, ...]
    engine_files: Mapping[str, tuple[BundleFile, ...]]
    copies: tuple[BundleFile, ...]
    multiply_adds: Mapping[str, MultiplyAdds]

    @property
    def graphs(self) -> Mapping[str, str]:
        """The ONNX file of every form by the engine that it is for; the variant's own is the first, by no name."""
        return {engine: files[0].path for engine, files in {"": self.files, **self.engine_files}.items()}


def write_variant(variant: str, built: Built, folder: Path) -> Written:
    """Writes every form of a variant's graph into `folder`."""
    first, *others = FILE_NAMES[variant]
    files = write_graph(built.model, folder, first)
    engine_files = {engine: write_graph(model, folder, engine_file(variant, engine)) for engine, model in built.engine_models.items()}
    for other in others:
        shutil.copyfile(folder / first, folder / other)
    return Written(
        built=built,
        files=files,
        engine_files=engine_files,
        copies=tuple(bundle_file(folder, other) for other in others),
        multiply_adds=multiply_add_formulas(built.model),
    )
