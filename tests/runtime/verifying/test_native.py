"""What `verify` finds of a bundle's native weights: figures by the engine's own thresholds, and the bits of the export."""

import dataclasses
import shutil
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from bundle_builder import EXACT, build_bundle
from golden_bundle import TEXTS, build_golden_bundle, replace_golden
from native_bundle import NAMES, add_native, describe_native
from native_library import needs_native

from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.manifest import EngineParity, read_manifest
from cls_runtime.bundle.parity import vector_bits
from cls_runtime.commands import verify as command
from cls_runtime.verifying.recorded import recorded_bits, recorded_parity, same_bits
from cls_runtime.verifying.text_rows import TextRows
from cls_runtime.verifying.vector_checks import as_computed
from cls_runtime.verifying.verification import verify


class Fixed:
    """An encoder of vectors that are known."""

    def __init__(self, manifest, vectors):
        self.manifest, self.vectors = manifest, vectors

    def encode(self, texts, *, output="sentence"):
        return self.vectors[output]

    def encode_with_report(self, texts, *, output="sentence"):
        raise NotImplementedError


@pytest.fixture(scope="module")
def golden_folder(tmp_path_factory):
    """Read-only by agreement."""
    return build_golden_bundle(tmp_path_factory.mktemp("native") / "tiny", variants={"fp32": None, "int8": None})


@pytest.fixture(scope="module")
def intact(golden_folder, tmp_path_factory):
    """With the bits that the library gives, of both variants. Read-only by agreement."""
    folder = add_native(shutil.copytree(golden_folder, tmp_path_factory.mktemp("intact") / "tiny"))
    golden = read_golden(folder / GOLDEN_NAME)
    figures = {}
    for variant in NAMES:
        with Encoder.load(folder, engine="native", variant=variant, on_overflow="truncate") as encoder:
            rows = {name: as_computed(encoder, TEXTS, output=name) for name in encoder.manifest.recorded_outputs}
        parity = {name: TextRows.of(rows[name]).figures(golden.vectors[name]) for name in ("cls", "pooler")}
        bits = {name: vector_bits(vectors) for name, vectors in rows.items()}
        figures[variant] = EngineParity(parity=parity, batch_invariance_max_abs=0.0, bits=bits)
    return describe_native(folder, figures)


class TestBits:
    @pytest.fixture
    def held(self, golden_folder):
        """The golden vectors, as if they were what the export's library gave, and the bits."""
        golden = read_golden(golden_folder / GOLDEN_NAME)
        vectors = {name: golden.vectors[name] for name in ("cls", "pooler")}
        manifest = read_manifest(golden_folder)
        bits = {name: vector_bits(rows) for name, rows in vectors.items()}

        def check(found, portable):
            return same_bits(Fixed(manifest, found), golden, bits, portable=lambda: Fixed(manifest, portable))

        return vectors, check

    def nudged(self, vectors):
        """One bit of one vector of the pooler."""
        rows = vectors["pooler"].copy()
        rows[3, 2] = np.nextafter(rows[3, 2], np.float32(2))
        return {**vectors, "pooler": rows}

    def test_the_same(self, held):
        vectors, check = held
        found = check(vectors, None)
        assert (found.passed, found.message) == (True, f"{2 * len(TEXTS)} vectors equal the export's bit for bit (cls, pooler)")
        assert found.figures == {"vectors": 2 * len(TEXTS), "other_than_portable": 0}

    def test_kernels_that_are_wrong(self, held):
        vectors, check = held
        found = check(self.nudged(vectors), vectors)
        assert not found.passed
        assert found.message.startswith(
            "pooler is not equal to the export's bit for bit; 1 of 18 vectors differ from those of the portable"
        )
        assert found.figures["other_than_portable"] == 1

    def test_another_library_or_other_weights(self, held):
        vectors, check = held
        other = self.nudged(vectors)
        found = check(other, other)
        assert not found.passed
        assert "the portable kernels give the same: compare cls-export-native's version" in found.message
        assert found.figures["other_than_portable"] == 0


def test_figures_on_record_are_the_engines_own(golden_folder):
    manifest = read_manifest(golden_folder)
    own = EngineParity(parity={"cls": dataclasses.replace(EXACT, mean_cosine=0.9997)}, batch_invariance_max_abs=0.0, bits={"cls": "0" * 64})
    fp32 = dataclasses.replace(manifest.variants["fp32"], engine_parity={"native": own})
    held = dataclasses.replace(manifest, variants={"fp32": fp32}, fingerprint="")
    assert recorded_parity(held, "fp32", "native", "cls").mean_cosine == 0.9997
    assert recorded_parity(held, "fp32", "native", "pooler") is None
    assert recorded_parity(held, "fp32", "native", "logits") is None
    assert recorded_parity(held, "fp32", "onnxruntime", "cls") == EXACT
    assert recorded_parity(held, "fp32", "openvino", "cls") is None
    assert recorded_parity(held, "bf16", "openvino", "cls") is None
    assert recorded_bits(held, "fp32", "native") == {"cls": "0" * 64}
    assert recorded_bits(held, "fp32", "onnxruntime") == recorded_bits(held, "bf16", "native") == {}


@needs_native
class TestOnTheLibrary:
    @pytest.fixture
    def own(self, intact, tmp_path):
        return shutil.copytree(intact, tmp_path / "own")

    def test_an_intact_bundle_passes(self, intact):
        report = verify(intact, engines=["native"])
        assert report.passed, report.failures
        bits = {check.variant: check for check in report.checks if check.name == "bits"}
        assert set(bits) == set(NAMES)
        assert bits["int8"].message == f"{3 * len(TEXTS)} vectors equal the export's bit for bit (cls, pooler, logits)"
        invariance = [check.figures["max_abs"] for check in report.checks if check.name == "batch invariance"]
        assert invariance == [0.0, 0.0]
        assert verify(intact).passed

    def test_auto_takes_it(self, intact, monkeypatch):
        monkeypatch.setattr("cls_runtime.engines.preference.cpu_features", lambda: frozenset({"avx512_vnni"}))
        assert {check.engine for check in verify(intact, variants=["auto"], engines=["auto"]).checks[2:]} == {"native"}

    def test_weights_that_are_a_little_off_are_found_by_the_bits(self, own, tmp_path):
        """By less than any threshold; the hashes are made to fit."""
        figures = {name: entry.engine_parity["native"] for name, entry in read_manifest(own).variants.items()}
        other = build_bundle(tmp_path / "other", change_weights=lambda table: table * np.float32(1 + 1e-6))
        shutil.copy(add_native(other) / NAMES["fp32"], own / NAMES["fp32"])
        describe_native(own, figures)
        report = verify(own, variants=["fp32"], engines=["native"])
        (failure,) = report.failures
        assert failure.name == "bits"
        assert "the portable kernels give the same: compare cls-export-native's version" in failure.message

    def test_int8_that_only_the_graph_might_have_misses(self, own):
        """A mean cosine of 0.9994, which is enough for the graph's int8."""
        golden = read_golden(own / GOLDEN_NAME)

        def turned(rows):
            """By an angle whose cosine is 0.9994."""
            other = np.random.default_rng(1).normal(size=rows.shape)
            other -= rows * (other * rows).sum(1, keepdims=True) / (rows * rows).sum(1, keepdims=True)
            other *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(other, axis=1, keepdims=True)
            return (0.9994 * rows + np.sqrt(1 - 0.9994**2) * other).astype(np.float32)

        replace_golden(own, dataclasses.replace(golden, vectors={name: turned(rows) for name, rows in golden.vectors.items()}))
        entries = {name: entry.engine_parity["native"] for name, entry in read_manifest(own).variants.items()}
        describe_native(own, {name: dataclasses.replace(entry, parity={}) for name, entry in entries.items()})
        failures = {check.engine: check.message for check in verify(own, variants=["int8"]).failures if check.name == "golden cls"}
        assert "mean_cosine" in failures["native"]
        assert "expected at least 0.9996" in failures["native"]

    def test_a_damaged_file_is_a_failed_check(self, own):
        path = own / NAMES["int8"]
        data = bytearray(path.read_bytes())
        data[-3] ^= 1
        path.write_bytes(data)
        failures = [(check.name, check.message) for check in verify(own, engines=["native"]).failures]
        assert failures[0][0] == "files"
        assert NAMES["int8"] in failures[0][1]

    def test_the_command_tells_of_it(self, own, tmp_path, capsys):
        junit = tmp_path / "report.xml"
        assert command.main([str(own), "--engine", "native", "--junit", str(junit)]) == 0
        assert "bits" in capsys.readouterr().out
        cases = {(case.get("classname"), case.get("name")) for case in ET.parse(junit).iter("testcase")}
        assert ("cls-verify.int8.native", "bits") in cases
