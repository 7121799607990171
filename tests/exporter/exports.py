"""Small checkpoints of every family, each traced and exported once a test session, by whichever worker asks first.

Tracing takes longer than all the rest of a small export. The same few checkpoints serve most tests, and those that need other weights take
a graph that was traced before and put theirs into it.
"""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import checkpoints
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from made_once import made_once
from safetensors.torch import load_file, save_file
from torch import Tensor

from cls_exporter import ExportConfig, ExportReport, export, exporting
from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.architectures import ARCHITECTURES
from cls_exporter.config import Precision
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.graph.trace import trace
from cls_exporter.variants.variant import FILE_NAMES
from cls_runtime.bundle.folder import Bundle

FamilyKind = Literal["encoder", "classifier"]
LABELS = 3


@dataclass(frozen=True)
class Exported:
    """A checkpoint and its bundle. Read-only by agreement: copy what you damage."""

    checkpoint: Path
    bundle: Path
    report: ExportReport

    def session(self, variant: str = "fp32") -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.bundle / FILE_NAMES[variant][0], providers=["CPUExecutionProvider"])

    def graph(self, variant: str = "fp32") -> ir.Model:
        return ir.load(self.bundle / FILE_NAMES[variant][0])


def every_output(model_type: str, kind: FamilyKind) -> ExportConfig:
    """Every output that a checkpoint of the kind has, and every variant; of a classifier not int8, which takes long."""
    architecture = ARCHITECTURES[model_type]
    has_pooler = architecture.has_pooler and (kind == "encoder" or architecture.head == "pooled")
    variants: tuple[Precision, ...] = ("fp32", "fp16", "int8") if kind == "encoder" else ("fp32", "fp16")
    return ExportConfig(pooler=has_pooler, logits=kind == "classifier", precisions=variants)


@dataclass(frozen=True)
class Traced:
    """A traced graph, and the weights that it was traced with.

    `places` says which weight each of its arrays holds, and whether transposed; None where one of them is something else.
    """

    model: ir.Model
    weights: Mapping[str, Tensor]
    places: Mapping[str, tuple[str, bool]] | None

    @classmethod
    def read(cls, folder: Path) -> Traced:
        model, weights = ir.load(folder / "model.onnx"), load_file(folder / "weights.safetensors")
        return cls(model, weights, _places(model, weights))

    def with_weights(self, weights: Mapping[str, Tensor]) -> ir.Model | None:
        """A copy with other weights of the same shapes; None where that is not known to be what a trace with them gives."""
        copy = self.model.clone()
        if all(torch.equal(tensor, self.weights[name]) for name, tensor in weights.items()):
            return copy
        if self.places is None:
            return None
        for initializer, (name, is_transposed) in self.places.items():
            array = weights[name].numpy()
            copy.graph.initializers[initializer].const_value = ir.tensor(np.array(array.T if is_transposed else array), name=initializer)
        return copy


def _places(model: ir.Model, weights: Mapping[str, Tensor]) -> Mapping[str, tuple[str, bool]] | None:
    arrays = {name: tensor.numpy() for name, tensor in weights.items() if tensor.is_floating_point()}
    places = {}
    for initializer, value in model.graph.initializers.items():
        held = value.const_value.numpy()  # type: ignore[union-attr]
        if held.dtype.kind != "f" or not held.ndim:
            continue
        holds = [(name, False) for name, array in arrays.items() if np.array_equal(held, array)]
        holds += [(name, True) for name, array in arrays.items() if array.ndim == 2 and np.array_equal(held, array.T)]
        if len(holds) != 1:
            return None
        places[initializer] = holds[0]
    return places if {name for name, _ in places.values()} == set(arrays) else None


class ExportStore:
    """What the tests of one session share, in a folder that all its workers see."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._exported: dict[tuple[str, FamilyKind], Exported] = {}
        self._traced: dict[str, Traced] = {}

    def checkpoint(self, model_type: str, kind: FamilyKind) -> Path:
        """The family's small checkpoint."""
        return made_once(
            self._folder / f"{model_type}-{kind}" / f"small-{model_type}",
            lambda folder: checkpoints.make_checkpoint(folder, model_type, kind=kind, labels=LABELS),
        )

    def trace(self, checkpoint: Checkpoint) -> ir.Model:
        """`graph.trace.trace`, once for the same configuration, inputs and outputs; the copy is the caller's."""
        weights = checkpoint.model.state_dict()
        shapes = [(name, list(tensor.shape)) for name, tensor in weights.items()]
        asked = f"{checkpoint.inputs} {checkpoint.model.output_names} {checkpoint.model.include_prompt}"
        described = f"{asked} {shapes} {json.dumps(checkpoint.stored_config)}"
        key = hashlib.sha256(described.encode()).hexdigest()
        if key not in self._traced:
            self._traced[key] = Traced.read(made_once(self._folder / f"traced-{key}", lambda folder: _trace_into(folder, checkpoint)))
        known = self._traced[key].with_weights(weights)
        return trace(checkpoint) if known is None else known

    def exported(self, model_type: str, kind: FamilyKind) -> Exported:
        """The bundle of `checkpoint(model_type, kind)`, as `every_output` asks for it."""
        if (model_type, kind) not in self._exported:
            checkpoint = self.checkpoint(model_type, kind)
            config = every_output(model_type, kind)
            if "int8" in config.precisions:
                config = replace(config, calibration=self._calibration())
            folder = made_once(self._folder / f"{model_type}-{kind}" / "exported", lambda folder: self._export(checkpoint, folder, config))
            report = pickle.loads((folder / "report.pickle").read_bytes())
            self._exported[model_type, kind] = Exported(checkpoint, folder / "bundle", report)
        return self._exported[model_type, kind]

    def _calibration(self) -> Path:
        """A third of the built-in texts: enough for so small a model, and int8 takes a third of the time."""
        texts = "\n".join(builtin_texts("calibration")[::3])
        return made_once(self._folder / "calibration", lambda folder: (folder / "texts.txt").write_text(texts, "utf-8")) / "texts.txt"

    def check_untouched(self) -> None:
        """Every bundle that was asked for is as it was exported."""
        for item in self._exported.values():
            assert Bundle.open(item.bundle, check_hashes=True).manifest == item.report.manifest

    def _export(self, checkpoint: Path, folder: Path, config: ExportConfig) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(exporting, "trace", self.trace)
            report = export(checkpoint, folder / "bundle", config=config)
        (folder / "report.pickle").write_bytes(pickle.dumps(report))


def _trace_into(folder: Path, checkpoint: Checkpoint) -> None:
    ir.save(trace(checkpoint), folder / "model.onnx")
    save_file({name: tensor.contiguous().clone() for name, tensor in checkpoint.model.state_dict().items()}, folder / "weights.safetensors")
