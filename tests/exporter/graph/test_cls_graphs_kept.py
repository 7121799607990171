"""Graphs of CLS exports are byte for byte what they were before other poolings came: the record was made by the code before them.

Held are every family's fp32 graph and, for bert, the layouts, the other outputs and the other variants; the numbers of weights aside, which
are random. The record knows the versions that traced the graphs, which are those of the constraints: with others there is nothing to hold.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import cls_graphs
import numpy as np
import onnx_ir as ir
import pytest
import transformers
from exports import ExportStore

from cls_exporter.checkpoint import load_checkpoint

ALWAYS = ("bert", "modernbert")
# transformers 5 traces its masks from a set of layer types, whose order is another in every process.
HASH_SEED_MATTERS = ("modernbert",)


def kept() -> dict[str, Any]:
    recorded = json.loads(cls_graphs.RECORD.read_text())
    assert set(recorded) == {"4", "5"}  # each line that is supported
    return recorded[transformers.__version__.split(".")[0]]


@pytest.mark.parametrize("name", [pytest.param(name, marks=[] if name in ALWAYS else [pytest.mark.slow]) for name in cls_graphs.CASES])
def test_the_graph_is_what_it_was(name: str) -> None:
    record = kept()
    if cls_graphs.installed() != record["versions"]:
        pytest.skip(f"the record was made with {record['versions']}, installed are {cls_graphs.installed()}")
    hashes = computed_apart(name) if name in HASH_SEED_MATTERS else cls_graphs.CASES[name].hashes()
    assert hashes == record["graphs"][name]


def computed_apart(name: str) -> dict[str, str]:
    environment = {**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, cls_graphs.__file__, name], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)[name]


def test_every_case_is_in_the_record() -> None:
    assert list(kept()["graphs"]) == list(cls_graphs.CASES)


def renamed(model: ir.Model) -> None:
    next(iter(model.graph)).outputs[0].name = "another"


def with_another_attribute(model: ir.Model) -> None:
    node = next(node for node in model.graph if node.op_type == "LayerNormalization")
    node.attributes["epsilon"] = ir.AttrFloat32("epsilon", 1e-3)


def with_another_axis(model: ir.Model) -> None:
    value = next(value for value in model.graph.initializers.values() if value.dtype == ir.DataType.INT64)
    value.const_value = ir.tensor(value.const_value.numpy() + 1, name=value.name)  # type: ignore[union-attr]


def with_outputs_turned(model: ir.Model) -> None:
    model.graph.outputs.reverse()


def without_a_shape(model: ir.Model) -> None:
    next(iter(model.graph)).outputs[0].shape = None


def of_another_opset(model: ir.Model) -> None:
    model.graph.opset_imports[""] += 1


@pytest.mark.parametrize(
    "change", [renamed, with_another_attribute, with_another_axis, with_outputs_turned, without_a_shape, of_another_opset]
)
def test_whatever_changes_is_seen(change: Callable[[ir.Model], None], store: ExportStore) -> None:
    model = store.trace(load_checkpoint(str(store.checkpoint("bert", "classifier")), config=cls_graphs.ExportConfig(logits=True)))
    before = cls_graphs.graph_hash(model)
    assert cls_graphs.graph_hash(model.clone()) == before
    change(model)
    assert cls_graphs.graph_hash(model) != before


def test_the_numbers_of_weights_do_not_count(store: ExportStore) -> None:
    model = store.trace(load_checkpoint(str(store.checkpoint("bert", "classifier")), config=cls_graphs.ExportConfig(logits=True)))
    before = cls_graphs.graph_hash(model)
    for value in model.graph.initializers.values():
        if value.dtype == ir.DataType.FLOAT and value.const_value is not None:
            value.const_value = ir.tensor(np.asarray(value.const_value.numpy() / 2, dtype=np.float32), name=value.name)
    assert cls_graphs.graph_hash(model) == before
