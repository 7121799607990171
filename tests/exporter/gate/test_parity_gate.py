"""The gate alone, on a tiny bundle: what it needs, measures and refuses. test_exporting.py and test_fp16.py hold it in exports."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from golden_bundle import build_golden_bundle, nudged
from onnx import numpy_helper

from cls_exporter.errors import ParityError
from cls_exporter.gate import parity_gate
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, ParityFigures
from cls_runtime.errors import BundleError

GRAPH = Path("onnx", "model.onnx")


@pytest.fixture
def unwritten(tmp_path: Path) -> Bundle:
    """A bundle as an export has it before its manifest: files in place, variants unknown, nothing written."""
    folder = build_golden_bundle(tmp_path / "tiny")
    manifest = dataclasses.replace(Bundle.open(folder).manifest, variants={})
    (folder / MANIFEST_NAME).unlink()
    return Bundle(folder, manifest)


@pytest.fixture
def golden(unwritten: Bundle) -> Golden:
    return read_golden(unwritten.folder / GOLDEN_NAME)


def test_a_graph_is_measured_before_any_manifest_names_it(unwritten: Bundle, golden: Golden) -> None:
    before = {path: path.read_bytes() for path in unwritten.folder.rglob("*") if path.is_file()}
    measured = parity_gate.hold(unwritten.folder / GRAPH, unwritten, golden, variant="fp32")
    assert list(measured.parity) == ["cls", "pooler", "logits"]
    for figures in (*measured.parity.values(), measured.batch_invariance):
        assert isinstance(figures, ParityFigures)
        assert figures.max_abs <= 1e-5
    assert measured.parity["cls"].texts == len(golden.texts)
    assert {path: path.read_bytes() for path in unwritten.folder.rglob("*") if path.is_file()} == before


def test_a_vector_that_is_not_pytorchs_is_refused_with_what_was_tried(unwritten: Bundle, golden: Golden) -> None:
    vectors = {**golden.vectors, "pooler": nudged(golden.vectors["pooler"], 1, 0.1)}
    other = dataclasses.replace(golden, vectors=vectors)
    message = r"^fp16 is not exported: pooler against PyTorch has .*max_abs 0\.1.*; worst is text 1 'the cat sleeps'; tried: two things$"
    with pytest.raises(ParityError, match=message):
        parity_gate.hold(unwritten.folder / GRAPH, unwritten, other, variant="fp16", tried="two things")


def test_a_batch_that_the_graph_cannot_compute_is_refused(unwritten: Bundle, golden: Golden) -> None:
    """The odd batches are made of the golden tokens, so an id that the table has no row for is in them alone."""
    odd = dataclasses.replace(golden, token_ids=(*golden.token_ids[:-1], (10_000,) * 20))
    with pytest.raises(ParityError, match=r"^fp32 is not exported: ONNX Runtime failed on a batch of shape \(1, 1\): "):
        parity_gate.hold(unwritten.folder / GRAPH, unwritten, odd, variant="fp32")


def test_a_number_that_is_none_is_refused(unwritten: Bundle, golden: Golden) -> None:
    model = onnx.load(unwritten.folder / GRAPH)
    (table,) = [item for item in model.graph.initializer if item.name == "P"]
    table.CopyFrom(numpy_helper.from_array(np.full_like(numpy_helper.to_array(table), np.nan), "P"))
    onnx.save(model, unwritten.folder / "damaged.onnx")
    with pytest.raises(ParityError, match=r"^fp32 is not exported: pooler: 9 of 9 vectors hold NaN"):
        parity_gate.hold(unwritten.folder / "damaged.onnx", unwritten, golden, variant="fp32")


def test_a_graph_with_other_outputs_than_the_manifest_is_no_graph_of_it(unwritten: Bundle, golden: Golden) -> None:
    fewer = Bundle(unwritten.folder, dataclasses.replace(unwritten.manifest, outputs=unwritten.manifest.outputs[:-1]))
    with pytest.raises(BundleError, match="has outputs .*logits, the manifest says "):
        parity_gate.hold(unwritten.folder / GRAPH, fewer, golden, variant="fp32")
