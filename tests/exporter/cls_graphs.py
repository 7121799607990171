"""The graphs of CLS exports as hashes: what an export of the CLS row writes, weights aside, down to every name.

As a script it prints the hashes of the exports that are named, or of all. `cls_graphs_kept.json` holds them for each line of transformers:

    $ PYTHONHASHSEED=0 python tests/exporter/cls_graphs.py --record

renews those of the installed one. Not to be done because a hash changed, but because a version of what traces the graph did.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import checkpoints
import onnx
import onnx_ir as ir

from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import ExportConfig, Layout, Precision
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.graph.families import form_of
from cls_exporter.graph.pipeline import compile_graph
from cls_exporter.graph.trace import trace
from cls_exporter.variants import CalibrationTexts, build_variant

RECORD = Path(__file__).with_name("cls_graphs_kept.json")
TOOLS = ("torch", "transformers", "onnx", "onnx-ir", "onnxscript")
# What is the same on every CPU: shapes, axes and bounds. Random weights need not be, nor what is made of them.
_VALUES_COUNT = (onnx.TensorProto.INT64, onnx.TensorProto.BOOL)


@dataclass(frozen=True)
class Case:
    """An export: a family's small checkpoint, and what is asked of it."""

    model_type: str
    kind: Literal["encoder", "classifier"] = "encoder"
    pooler: bool = False
    logits: bool = False
    layout: Layout = "standard"
    precision: Precision = "fp32"

    def hashes(self) -> dict[str, str]:
        """Of each form of the graph, by the engine that it is for; `""` is the one for all others."""
        with tempfile.TemporaryDirectory() as folder:
            path = checkpoints.make_checkpoint(Path(folder, "model"), self.model_type, kind=self.kind)
            checkpoint = load_checkpoint(str(path), config=ExportConfig(pooler=self.pooler, logits=self.logits))
            compiled = compile_graph(trace(checkpoint), form=form_of(checkpoint), layout=self.layout)
        texts = builtin_texts("calibration")[::24]
        calibration = CalibrationTexts.of(texts)
        built = build_variant(
            self.precision, compiled.model, checkpoint=checkpoint, parity=texts, calibration=calibration, whole=compiled.whole
        )
        return {engine: graph_hash(model) for engine, model in {"": built.model, **built.engine_models}.items()}


CASES = {
    **{model_type: Case(model_type) for model_type in checkpoints.all_families()},
    "bert, native": Case("bert", layout="native"),
    "bert, broadcast": Case("bert", layout="broadcast"),
    "bert, pooler": Case("bert", pooler=True),
    "bert, pooler and logits": Case("bert", "classifier", pooler=True, logits=True),
    "bert, fp16": Case("bert", precision="fp16"),
    "bert, int8": Case("bert", precision="int8"),
}


def graph_hash(model: ir.Model) -> str:
    """Of everything in the file but the numbers of its weights: nodes, attributes, names, shapes, types, order, operator sets."""
    proto = ir.to_proto(model)
    proto.ClearField("producer_name")
    proto.ClearField("producer_version")
    for tensor in proto.graph.initializer:
        if tensor.data_type not in _VALUES_COUNT:
            tensor.ClearField("raw_data")
    return hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()


def installed() -> dict[str, str]:
    """The versions of what makes a graph, whatever they were built for."""
    return {tool: version(tool).split("+")[0] for tool in TOOLS}


def computed(names: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """The hashes of the cases of `names`."""
    for name in names:
        yield name, CASES[name].hashes()


def _record() -> None:
    versions = installed()
    content = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    content[versions["transformers"].split(".")[0]] = {"versions": versions, "graphs": dict(computed(list(CASES)))}
    RECORD.write_text(json.dumps(dict(sorted(content.items())), indent=2) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["--record"]:
        _record()
    else:
        print(json.dumps(dict(computed(sys.argv[1:] or list(CASES)))))
