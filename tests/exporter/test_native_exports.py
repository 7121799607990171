"""What an export with int8 writes for our own kernels, and what it says where they do not know a family's layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from exports import Exported, FamilyKind

from cls_exporter.command import summary_lines
from cls_runtime import Encoder
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import parity_figures, recorded_shortfalls
from cls_runtime.encoding.options import EncoderOptions
from cls_runtime.engines.native import weights_file
from cls_runtime.engines.native.reference import ReferenceEngine

FILES = {"int8": "native/weights.safetensors", "fp32": "native/weights_fp32.safetensors"}


@pytest.fixture(scope="module")
def exported(exported_family: Callable[[str, FamilyKind], Exported]) -> Exported:
    return exported_family("bert", "encoder")


def test_both_variants_have_native_weights_with_figures_of_their_own(exported: Exported) -> None:
    manifest = Bundle.open(exported.bundle, check_hashes=True).manifest
    for name, file in FILES.items():
        variant = manifest.variants[name]
        assert [held.path for held in variant.engine_files["native"]] == [file]
        assert "native" in variant.engines
        assert list(variant.engine_parity["native"].parity) == list(manifest.recorded_outputs)
        assert recorded_shortfalls(name, variant, engine="native") == []
    assert "native" not in manifest.variants["fp16"].engine_files
    recipe = manifest.variants["int8"].recipe["native"]
    assert recipe["smoothing_alpha"] in (0.4, 0.5, 0.6, 0.7)
    assert recipe["float32_products"] + recipe["int8_products"] > 0


def test_the_weights_alone_give_the_vectors(exported: Exported) -> None:
    bundle = Bundle.open(exported.bundle)
    golden = read_golden(exported.bundle / GOLDEN_NAME)
    engine = ReferenceEngine(weights_file.read(exported.bundle / FILES["fp32"]))
    with Encoder.of(bundle, engine, EncoderOptions(variant="fp32", on_overflow="truncate")) as encoder:
        vectors = encoder.encode(golden.inputs, normalize=False)
    assert parity_figures(golden.vectors["cls"], vectors).max_abs <= 5e-5


def test_the_summary_and_the_card_have_the_figures(exported: Exported) -> None:
    summary = "\n".join(summary_lines(exported.report))
    card = (exported.bundle / "README.md").read_text(encoding="utf-8")
    for name, file in FILES.items():
        assert f"{name} native" in summary
        assert file in summary
        assert f"| {name}, native | cls | `{file}` |" in card
    assert "weights for cls-export's own kernels" in card


@pytest.mark.slow
def test_a_family_whose_layers_the_kernels_do_not_know_goes_without(
    exported_family: Callable[[str, FamilyKind], Exported],
) -> None:
    exported = exported_family("deberta-v2", "encoder")
    assert not Path(exported.bundle, "native").exists()
    assert all("native" not in variant.engine_files for variant in exported.report.manifest.variants.values())
    assert any(note.startswith("runs on ONNX Runtime: ") and "deberta-v2" in note for note in exported.report.notes)
