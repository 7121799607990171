"""The native form's gate: a damaged form fails it, the next one may hold, and where the library is not installed NumPy runs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from checkpoints import HIDDEN, make_checkpoint
from native_library import needs_native

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.config import ExportConfig
from cls_exporter.errors import ParityError
from cls_exporter.gate import native_gate
from cls_exporter.gate.native_gate import hold_native
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.graph.graph_file import bundle_file
from cls_exporter.native import float_model
from cls_exporter.native.int8_model import Int8Products
from cls_exporter.native.ranges import input_ranges
from cls_exporter.variants.calibration import token_batches
from cls_exporter.writing.companions import write_companions
from cls_runtime import MissingExtraError
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Manifest, OutputSpec, Source
from cls_runtime.engines.native.weights import NativeModel

TEXTS = (*builtin_texts("parity")[:12], "")


class Case:
    """A checkpoint's native models, and PyTorch's vectors of a few texts."""

    def __init__(self, folder: Path) -> None:
        self.checkpoint: Checkpoint = load_checkpoint(str(make_checkpoint(folder / "checkpoint")), config=ExportConfig(pooler=True))
        self.model: NativeModel = float_model(self.checkpoint)
        ranges = input_ranges(self.model, token_batches(self.checkpoint, iter(TEXTS)))
        self.int8 = Int8Products(self.model, ranges, alpha=0.6).model()
        self.golden = Golden(
            texts=TEXTS,
            vectors=checkpoint_vectors(self.checkpoint, TEXTS),
            token_ids=checkpoint_token_ids(self.checkpoint, TEXTS),
        )

    def bundle(self, folder: Path) -> Bundle:
        """As an export has it before there is a variant."""
        folder.mkdir()
        write_companions(self.checkpoint, folder)
        source = Source(name="tiny", revision=None, weights_sha256="0" * 64, tokenizer_sha256="0" * 64)
        manifest = Manifest(
            source=source,
            architecture="bert",
            hidden_size=HIDDEN,
            num_layers=2,
            max_length=self.checkpoint.max_length,
            layout="standard",
            inputs=self.checkpoint.inputs,
            outputs=tuple(OutputSpec(name=name, width=HIDDEN) for name in ("last_hidden_state", "sentence_embedding", "pooler_output")),
            pooler=self.checkpoint.pooler,
            source_pooling=self.checkpoint.source_pooling,
            variants={},
            files=tuple(bundle_file(folder, name) for name in ("tokenizer.json", "tokenizer_config.json")),
            tool_versions={},
        )
        return Bundle(folder, manifest)


@pytest.fixture
def without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingExtraError("cls-export-native is not installed; run: pip install cls-export[native]")

    monkeypatch.setattr(native_gate, "NativeEngine", missing)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    return Case(tmp_path_factory.mktemp("native_gate"))


@pytest.fixture
def bundle(case: Case, tmp_path: Path) -> Bundle:
    return case.bundle(tmp_path / "bundle")


def damaged(model: NativeModel) -> NativeModel:
    """One layer's outputs with another sign and size."""
    first, *others = model.layers
    assert first.down.scales is not None
    return replace(model, layers=(replace(first, down=replace(first.down, scales=first.down.scales * np.float32(-4))), *others))


@pytest.mark.usefixtures("without_the_library")
def test_numpy_holds_a_form_and_a_note_says_so(case: Case, bundle: Bundle) -> None:
    held = hold_native([case.model], bundle, case.golden, variant="fp32")
    assert (bundle.folder / "native/weights_fp32.safetensors").stat().st_size == held.file.size_bytes
    assert list(held.parity.parity) == ["cls", "pooler"]
    assert held.parity.parity["cls"].max_abs <= 5e-5
    assert held.parity.batch_invariance_max_abs == 0
    assert held.parity.bits == {}
    assert "in NumPy" in held.note
    assert "cls-export-native is not installed" in held.note


@needs_native
def test_the_kernels_hold_a_form_and_its_bits_are_recorded(case: Case, bundle: Bundle) -> None:
    held = hold_native([case.model], bundle, case.golden, variant="fp32")
    assert held.note == ""
    assert list(held.parity.bits) == ["cls", "pooler"]
    assert held.parity.batch_invariance_max_abs == 0
    assert hold_native([case.model], bundle, case.golden, variant="fp32").parity == held.parity


@pytest.mark.usefixtures("without_the_library")
def test_a_damaged_form_is_refused_with_the_worst_text(case: Case, bundle: Bundle) -> None:
    with pytest.raises(ParityError, match=r"^int8 is not exported: its form for engine native: cls against PyTorch has .*; worst is text"):
        hold_native([damaged(case.int8)], bundle, case.golden, variant="int8")


@pytest.mark.usefixtures("without_the_library")
def test_fp32_is_held_to_its_largest_difference(case: Case, bundle: Bundle) -> None:
    first, *others = case.model.layers
    shifted = replace(first.down, bias=first.down.bias + np.float32(1e-2) * (np.arange(len(first.down.bias)) == 3).astype(np.float32))
    other = replace(case.model, layers=(replace(first, down=shifted), *others))
    with pytest.raises(ParityError, match=r"^fp32 is not exported: its form for engine native: cls against PyTorch has .*max_abs"):
        hold_native([other], bundle, case.golden, variant="fp32")


@pytest.mark.usefixtures("without_the_library")
def test_the_next_form_is_tried_where_one_misses(case: Case, bundle: Bundle) -> None:
    held = hold_native([damaged(case.int8), case.model], bundle, case.golden, variant="int8")
    assert held.model is case.model
