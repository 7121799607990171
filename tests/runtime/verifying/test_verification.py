import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundle_builder import EXACT, HIDDEN, describe, tiny_graph, write_manifest
from damage import DAMAGES, INT8, build_damageable, edit
from golden_bundle import TEXTS, agree, build_golden_bundle, nudged, replace_golden

from cls_runtime import Encoder
from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.bundle.manifest import MANIFEST_NAME, ParityFigures, Variant, read_manifest
from cls_runtime.bundle.parity import THRESHOLDS, shortfalls
from cls_runtime.engines import choice, onnxruntime
from cls_runtime.errors import BundleError, MissingExtraError, UsageError
from cls_runtime.verifying import vector_checks
from cls_runtime.verifying.plan import combinations
from cls_runtime.verifying.verification import Verification, verify

VECTOR_CHECKS = ["load", "finite", "golden cls", "golden pooler", "golden logits", "batch invariance", "truncation", "refusals"]


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    """Read-only by agreement."""
    return build_golden_bundle(tmp_path_factory.mktemp("golden") / "tiny")


@pytest.fixture(autouse=True)
def one_engine(monkeypatch):
    """The same checks wherever these tests run."""
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("onnxruntime",))


@pytest.fixture
def own(intact, tmp_path):
    return shutil.copytree(intact, tmp_path / "own")


def failed(folder, **options):
    """The failed checks of a bundle: message by name."""
    return {check.name: check.message for check in verify(folder, **options).failures}


def test_an_intact_bundle_passes_every_check(intact):
    seen = []
    report = verify(intact, progress=seen.append)
    assert report.passed
    assert report.checks == tuple(seen)
    assert [check.name for check in report.checks] == ["files", "tokens", *VECTOR_CHECKS]
    assert {(check.variant, check.engine) for check in report.checks[2:]} == {("fp32", "onnxruntime")}
    assert (report.source, report.fingerprint) == ("tiny", read_manifest(intact).fingerprint)
    assert report.seconds == sum(check.seconds for check in report.checks)
    figures = {check.name: check.figures for check in report.checks}
    assert figures["files"]["files"] == 4
    assert figures["golden cls"]["texts"] == len(TEXTS)
    assert figures["truncation"]["truncated"] == 2


def test_every_variant_is_checked_unless_one_is_named(tmp_path):
    folder = build_golden_bundle(tmp_path / "two", variants={"fp32": None, "int8": None})
    assert [check.variant for check in verify(folder).checks if check.name == "load"] == ["fp32", "int8"]
    assert {check.variant for check in verify(folder, variants=["int8"]).checks} == {None, "int8"}


@pytest.mark.parametrize("name", ["cls", "pooler", "logits"])
def test_a_wrong_vector_names_the_text_and_how_far_it_is_off(own, name):
    golden = read_golden(own / GOLDEN_NAME)
    replace_golden(own, dataclasses.replace(golden, vectors={**golden.vectors, name: nudged(golden.vectors[name], 3, 0.25)}))
    messages = failed(own)
    assert list(messages) == [f"golden {name}"]
    message = messages[f"golden {name}"]
    if name == "logits":  # held to the difference alone: the cosine of one or two numbers says nothing
        assert "words or positions: max_abs 0.25, expected at most 5e-05; " in message
    else:
        assert "mean_cosine 0." in message
        assert "expected at least 0.9999999" in message
    assert "worst is text 3 'dog runs, the cat!': cosine 0.9" in message
    assert message.endswith("off by up to 0.25")


@pytest.mark.parametrize(
    ("variant", "bound"), [(name, bounds.min_cosine) for name, bounds in THRESHOLDS.items() if name not in ("bf16", "tf32")]
)
def test_each_variants_threshold_is_held_from_both_sides(tmp_path, variant, bound):
    folder = build_golden_bundle(tmp_path / variant, variants={variant: None}, outputs=("sentence_embedding",))
    golden = read_golden(folder / GOLDEN_NAME)
    for factor, holds in ((0.5, True), (2.0, False)):
        vectors = golden.vectors["cls"].astype(np.float64)
        # Turned by an angle whose cosine is the bound, times the factor: by half of it the row still holds, by twice it does not.
        angle = np.arccos(bound) * factor
        row = vectors[0]
        other = np.zeros_like(row)
        other[:2] = row[1], -row[0]
        other *= np.linalg.norm(row) / np.linalg.norm(other)
        vectors[0] = row * np.cos(angle) + other * np.sin(angle)
        replace_golden(folder, Golden(texts=golden.texts, vectors={"cls": vectors.astype(np.float32)}))
        (check,) = [check for check in verify(folder).checks if check.name == "golden cls"]
        relaxed = dataclasses.replace(THRESHOLDS[variant], mean_cosine=0.0, p1_cosine=None, max_abs=None)
        assert (check.figures["min_cosine"] >= bound) is holds
        assert (shortfalls(ParityFigures(**check.figures), relaxed) == []) is holds
        assert holds or not check.passed


def test_a_changed_file_is_named_and_the_vectors_are_still_checked(own):
    path = own / "tokenizer_config.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"PreTrained", b"PostTrain_"))
    messages = failed(own)
    assert list(messages) == ["files"]
    assert "1 of 4 files are not the ones that were exported (sha256 differs): tokenizer_config.json" in messages["files"]
    path.write_bytes(whole.replace(b":", b" ", 1))
    messages = failed(own)
    assert list(messages) == ["files", "tokens", "load"]
    assert "is not valid JSON" in messages["load"]


def test_a_graph_with_one_weight_changed_is_seen_with_and_without_a_hash(own):
    path = own / "onnx" / "model.onnx"
    model = onnx.load(path)
    (table,) = [item for item in model.graph.initializer if item.name == "E"]
    weights = onnx.numpy_helper.to_array(table).copy()
    weights[5, 0] += 0.5  # the row of the letter a
    table.CopyFrom(onnx.numpy_helper.from_array(weights, "E"))
    onnx.save(model, path)
    assert "onnx/model.onnx" in failed(own)["files"]
    agree(own)
    messages = failed(own)
    assert "files" not in messages
    assert "worst is text 0 'a'" in messages["golden cls"]


def test_a_corrupt_graph_of_the_right_size_fails_to_load(own):
    path = own / "onnx" / "model.onnx"
    path.write_bytes(b"\xff" * path.stat().st_size)
    messages = failed(own)
    assert list(messages) == ["files", "load"]
    assert "is not a graph that an export writes" in messages["load"]


def test_another_maximum_length_is_seen(own):
    agree(own, max_length=12)
    messages = failed(own)
    assert "worst is text 7 'running-sleeping.'" in messages["truncation"]
    assert "texts exceed 12 tokens and are reported as truncated, but do not get PyTorch's vectors: " in messages["truncation"]
    assert "worst is text" in messages["golden cls"]
    agree(own, max_length=400)
    assert "no golden text is over 400 tokens" in failed(own)["truncation"]


def test_a_swapped_tokenizer_is_seen(own):
    text = (own / "tokenizer.json").read_text()
    (own / "tokenizer.json").write_text(text.replace('"lowercase":true', '"lowercase":false').replace('"cat": ', '"dog_": '))
    agree(own)
    assert "golden cls" in failed(own)


def test_vectors_that_are_not_numbers_fail_every_check_of_them(tmp_path):
    folder = build_golden_bundle(tmp_path / "good")
    spoilt = tiny_graph(
        ("sentence_embedding", "pooler_output", "logits"), type_ids=True, change_weights=lambda weights: np.full_like(weights, np.nan)
    )
    onnx.save(spoilt, folder / "onnx" / "model.onnx")
    agree(folder)
    messages = failed(folder)
    assert messages["finite"].startswith("cls: 9 of 9 vectors hold NaN, infinity or only zeros, the first for text 0 'a'")
    assert set(VECTOR_CHECKS) - set(messages) == {"load", "refusals"}


def test_vectors_of_another_width_are_another_model(own):
    rows = np.ones((len(TEXTS), HIDDEN + 1), dtype=np.float32)
    replace_golden(own, Golden(texts=TEXTS, vectors={"cls": rows}))
    messages = failed(own)
    assert "cls is 8 numbers wide, PyTorch's is 9; this is another model" in messages["golden cls"]
    assert "this is another model" in messages["truncation"]
    assert "golden.npz has no pooler vectors" in messages["golden pooler"]


class Leaky:
    """An encoder whose vectors depend on how many texts they are encoded with."""

    def __init__(self, leak):
        self.leak = leak

    def encode(self, texts, output="cls"):
        lengths = np.array([[len(text), 1.0, 2.0] for text in texts], dtype=np.float32)
        return (lengths + self.leak * (len(texts) - 1) * np.array([0, 1, 0])).astype(np.float32)


@pytest.mark.parametrize(("leak", "passed"), [(0.0, True), (1e-6, True), (1e-4, False)])
def test_a_vector_that_depends_on_its_batch_is_seen(leak, passed):
    finding = vector_checks.batch_invariance(Leaky(leak), ["one", "three", "four letters"], THRESHOLDS["fp32"])
    assert finding.passed is passed
    if not passed:
        assert "batch invariance max_abs 0.0002, expected at most 1e-05; worst is text 0 'one'" in finding.message


def test_many_texts_are_sampled_and_named_by_their_own_index():
    texts = ["x" * number for number in range(1, 1001)]
    finding = vector_checks.batch_invariance(Leaky(0.01), texts, THRESHOLDS["fp32"])
    assert finding.figures["texts"] == 64 + 8  # alone, and in padded batches
    worst = int(finding.message.split("worst is text ")[1].split()[0])
    assert repr(texts[worst][:60]) in finding.message


def test_own_texts_take_the_place_of_golden_ones_where_no_reference_is_needed(intact):
    figures = {check.name: check for check in verify(intact, texts=["a", "b"]).checks}
    assert figures["finite"].message.startswith("2 texts")
    assert figures["golden cls"].figures["texts"] == len(TEXTS)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"variants": ["int8"]}, UsageError, "has no variant 'int8', it has fp32"),
        ({"texts": []}, UsageError, "the list of texts is empty"),
        ({"against": "some/model"}, MissingExtraError, r"needs PyTorch: pip install 'cls-export\[export,cpu\]'"),
    ],
)
def test_misuse_is_an_error_not_a_failed_check(intact, monkeypatch, options, error, message):
    monkeypatch.setattr("cls_runtime.verifying.live_model.REFERENCE_GROUP", "cls_export.nobody_is_here")
    with pytest.raises(error, match=message):
        verify(intact, **options)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def a_folder(path):
    path.unlink()
    path.mkdir()


FILE_DAMAGE = {
    "missing": Path.unlink,
    "cut": cut,
    "empty": lambda path: path.write_bytes(b""),
    "garbage of the same size": lambda path: path.write_bytes(b"\xff" * path.stat().st_size),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "a folder": a_folder,
}


NAMES = [GOLDEN_NAME, "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json", MANIFEST_NAME]


@pytest.mark.parametrize(
    ("name", "damage"), [(name, damage) for name in NAMES for damage in FILE_DAMAGE if (name, damage) != (MANIFEST_NAME, "missing")]
)
def test_a_damaged_file_is_a_failed_check_of_the_files(own, name, damage):
    FILE_DAMAGE[damage](own / name)
    messages = failed(own)
    assert next(iter(messages)) == "files"
    assert Path(name).name in messages["files"]
    assert "\n" not in "".join(messages.values())


def unlisted_golden(folder):
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, files=tuple(file for file in manifest.files if file.path != GOLDEN_NAME)))


def no_variants(folder):
    write_manifest(folder, dataclasses.replace(read_manifest(folder), variants={}, fingerprint=""))


def unknown_variant(folder):
    manifest = read_manifest(folder)
    write_manifest(folder, dataclasses.replace(manifest, variants={"fp7": manifest.variants["fp32"]}, fingerprint=""))


def unreadable_golden(folder):
    (folder / GOLDEN_NAME).write_bytes(b"PK no zip")
    agree(folder)


def path_outside(folder):
    manifest = read_manifest(folder)
    first, *others = manifest.files
    write_manifest(folder, dataclasses.replace(manifest, files=(dataclasses.replace(first, path="../elsewhere"), *others), fingerprint=""))


def link_outside(folder):
    shutil.move(folder / "tokenizer.json", folder.with_name("tokenizer.json"))
    (folder / "tokenizer.json").symlink_to(folder.with_name("tokenizer.json"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (unlisted_golden, "names no golden.npz"),
        (no_variants, "has no variant"),
        (unknown_variant, "variants is 'fp7'"),
        (unreadable_golden, "golden.npz"),
        (path_outside, "which leaves the folder"),
        (link_outside, "is a link that leaves the bundle"),
    ],
)
def test_a_manifest_that_does_not_fit_its_files_is_a_failed_check_of_them(own, damage, message):
    damage(own)
    assert message in failed(own)["files"]


def test_own_texts_are_checked_without_golden_vectors(own):
    (own / GOLDEN_NAME).unlink()
    names = [check.name for check in verify(own, texts=["a text"]).checks]
    assert names == ["files", "tokens", "load"]  # an Encoder does not load a bundle that lacks a file
    manifest = read_manifest(own)
    write_manifest(own, dataclasses.replace(manifest, files=tuple(file for file in manifest.files if file.path != GOLDEN_NAME)))
    report = verify(own, texts=["a text"])
    assert [check.name for check in report.checks] == ["files", "tokens", "load", "finite", "batch invariance", "refusals"]
    assert [check.name for check in report.failures] == ["files", "tokens"]


def test_an_error_of_somebody_elses_code_is_a_failed_check(own, monkeypatch):
    def broken(*_):
        raise IndexError("too many indices\nfor array")

    monkeypatch.setattr(vector_checks, "batch_invariance", broken)
    assert failed(own) == {"batch invariance": "IndexError: too many indices for array"}


@pytest.mark.parametrize("name", ["none", "file", "empty"])
def test_what_is_no_bundle_is_an_error(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError, match=name):
        verify(tmp_path / name)


PROVIDER = """
import numpy as np

def reference_vectors(model, texts, *, outputs, max_length, tokenizer, pooling):
    from cls_runtime import Encoder
    assert (max_length, pooling) == (16, "cls")
    with Encoder.load(model, on_overflow="truncate") as encoder:
        return {name: encoder.encode(texts, output=name) + np.float32(SHIFT) for name in outputs}
"""


@pytest.fixture
def provider(tmp_path, monkeypatch):
    """Installs an entry point whose vectors are `shift` off."""

    def install(shift, code=PROVIDER):
        name = f"provider_{tmp_path.name}_{str(shift).replace('.', '_')}"
        site = tmp_path / "site"
        (site / f"{name}-1.dist-info").mkdir(parents=True)
        (site / f"{name}-1.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (site / f"{name}-1.dist-info" / "entry_points.txt").write_text(f"[cls_export.test_reference]\npytorch = {name}:reference_vectors\n")
        (site / f"{name}.py").write_text(code.replace("SHIFT", str(shift)))
        monkeypatch.syspath_prepend(site)
        monkeypatch.setattr("cls_runtime.verifying.live_model.REFERENCE_GROUP", "cls_export.test_reference")

    return install


def test_against_compares_every_output_with_a_live_model(intact, provider):
    provider(0.0)
    report = verify(intact, against=str(intact), texts=["my own text", "another"])
    assert report.passed
    live = [check for check in report.checks if check.name.startswith("pytorch")]
    assert [check.name for check in live] == ["pytorch cls", "pytorch pooler", "pytorch logits"]
    assert {check.figures["texts"] for check in live} == {2}


def test_against_another_model_fails(intact, provider):
    provider(0.01)
    messages = failed(intact, against=str(intact))
    assert set(messages) == {"pytorch cls", "pytorch pooler", "pytorch logits"}
    assert "max_abs 0.01, expected at most 5e-05" in messages["pytorch cls"]


def test_against_takes_the_tokenizer_that_the_export_took(own, provider):
    write_manifest(own, dataclasses.replace(read_manifest(own), tokenizer="file"))
    provider(0.0, code=PROVIDER.replace("assert max_length == 16", "assert tokenizer == 'file'"))
    assert verify(own, against=str(own), texts=["my own text"]).passed


def test_against_without_pytorch_names_the_extra(intact, provider):
    provider(0.0, code="import a_package_that_is_not_installed")
    with pytest.raises(MissingExtraError, match="pip install"):
        verify(intact, against="some/model")


@pytest.fixture(scope="module")
def damageable(tmp_path_factory):
    """fp32 and int8. Read-only by agreement."""
    return build_damageable(tmp_path_factory.mktemp("damageable") / "tiny")


def test_what_is_damaged_below_is_sound(damageable):
    report = verify(damageable)
    assert report.passed, report.failures
    assert {check.variant for check in report.checks} == {None, "fp32", "int8"}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_that_no_hash_shows_is_found_and_named(damageable, tmp_path, kind):
    folder = shutil.copytree(damageable, tmp_path / "own")
    damage = DAMAGES[kind]
    damage.do(folder)
    report = verify(folder)
    assert "files" not in [check.name for check in report.failures]
    first = report.failures[0]
    assert (first.name, first.variant) == (damage.check, damage.variant)
    assert damage.message in first.message


def test_int8_is_held_to_the_figures_of_its_export(damageable, tmp_path):
    """Without them a scale that is slightly off stays within int8's thresholds."""
    folder = shutil.copytree(damageable, tmp_path / "own")
    edit(folder, INT8, "E_scale", lambda scale: scale * np.float32(1.02))
    (check,) = [check for check in verify(folder).failures if check.name == "golden cls"]
    assert shortfalls(ParityFigures(**check.figures), THRESHOLDS["int8"]) == []
    recorded = read_manifest(folder).variants["int8"].parity["cls"].mean_cosine
    assert f"expected {recorded:.8f} as at export" in check.message


def test_a_bundle_without_tokens_skips_them_and_passes(own):
    golden = read_golden(own / GOLDEN_NAME)
    replace_golden(own, dataclasses.replace(golden, token_ids=None))
    report = verify(own)
    assert report.passed
    assert [(check.name, check.passed) for check in report.skipped] == [("tokens", True)]


def test_the_first_text_with_other_tokens_is_named(own):
    golden = read_golden(own / GOLDEN_NAME)
    tokens = tuple(ids if index != 1 else (*ids[:2], ids[2] + 1, *ids[3:]) for index, ids in enumerate(golden.token_ids))
    replace_golden(own, dataclasses.replace(golden, token_ids=tokens))
    place = golden.token_ids[1][2]
    assert failed(own)["tokens"].startswith(
        "1 of 9 texts get different tokens from those in PyTorch, first text 1 'the cat sleeps': "
        f"token 2 is {place}, expected {place + 1}; the tokenizer"
    )


# ---------------------------------------------------------------- variants and engines


def test_every_variant_is_checked_on_every_installed_engine(tmp_path, monkeypatch):
    """A second engine under another name: the same module stands in for it."""
    monkeypatch.setitem(choice.ENGINES, "cuda", dataclasses.replace(choice.ENGINES["onnxruntime"], variants=("fp32",)))
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("cuda", "onnxruntime"))
    for_one = Variant(files=(), recipe={}, parity={"cls": EXACT}, batch_invariance_max_abs=0.0, engines=("onnxruntime",))
    folder = build_golden_bundle(tmp_path / "two", variants={"fp32": None, "int8": for_one})
    report = verify(folder)
    assert report.passed
    ran = [(check.variant, check.engine) for check in report.checks if check.name == "golden cls"]
    assert ran == [("fp32", "cuda"), ("fp32", "onnxruntime"), ("int8", "onnxruntime")]
    assert [(check.variant, check.engine, check.name) for check in report.skipped] == [("int8", "cuda", "load")]
    assert "variant int8 is for onnxruntime, not for cuda" in report.skipped[0].message


BF16_CPU, OTHER_CPU = frozenset({"avx512f", "avx512_bf16"}), frozenset({"avx512f", "avx512_vnni"})


def plan_with_openvino(monkeypatch, features):
    """Both CPU engines installed, on a CPU with these features."""
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("onnxruntime", "openvino"))
    monkeypatch.setattr("cls_runtime.verifying.plan.require_engine", lambda engine: None)
    monkeypatch.setattr("cls_runtime.engines.choice.require_engine", lambda engine: None)
    monkeypatch.setattr("cls_runtime.engines.choice.cpu_features", lambda: features)


@pytest.mark.parametrize("features", [BF16_CPU, OTHER_CPU], ids=["a CPU with bf16", "without"])
def test_bf16_is_checked_where_the_cpu_has_it_and_skipped_with_the_reason_elsewhere(intact, monkeypatch, features):
    plan_with_openvino(monkeypatch, features)
    manifest = read_manifest(intact)
    planned = {(item.variant, item.engine): item.objection for item in combinations(manifest)}
    held = [(variant, engine) for variant in manifest.variants for engine in ("onnxruntime", "openvino")]
    assert set(planned) == {*held, ("bf16", "openvino")}
    objection = planned["bf16", "openvino"]
    if features is BF16_CPU:
        assert objection is None
    else:
        assert "bf16 needs a CPU that computes bf16" in str(objection)


def test_bf16_by_name_where_the_cpu_lacks_it_is_the_reason(intact, monkeypatch):
    plan_with_openvino(monkeypatch, OTHER_CPU)
    (planned,) = combinations(read_manifest(intact), variants=["bf16"], engines=["openvino"])
    assert "which this one lacks" in str(planned.objection)


def test_tf32_is_checked_with_the_engine_that_computes_it(intact, monkeypatch):
    """Of thresholds of its own: neither those of fp32, which it would miss, nor none."""
    monkeypatch.setattr("cls_runtime.verifying.plan.require_engine", lambda engine: None)
    manifest = read_manifest(intact)
    assert ("tf32", "cuda") in [(item.variant, item.engine) for item in combinations(manifest, engines=["cuda"]) if item.objection is None]
    assert "tf32" not in {item.variant for item in combinations(manifest, engines=["onnxruntime"])}


@pytest.mark.parametrize(("off", "passes"), [(2e-3, True), (2e-2, False)])
def test_tf32s_vectors_are_held_to_its_own_thresholds(intact, monkeypatch, off, passes):
    """A CPU engine stands for the GPU; its vectors are off by more than fp32 may be."""
    from cls_runtime.engines import onnxruntime
    from cls_runtime.engines.cuda import load

    class Off:
        name, workers, providers = "cuda", 1, ("CUDAExecutionProvider",)

        def __init__(self, engine):
            self._engine = engine

        def run(self, batch, outputs):
            return [rows + np.float32(off) for rows in self._engine.run(batch, outputs)]

        def __getattr__(self, name):
            return getattr(self._engine, name)

    def stand_in(bundle, *, variant, threads, devices=()):
        assert (variant, devices) == ("tf32", (1,))
        return Off(onnxruntime.load(bundle, variant="fp32", threads=threads))

    monkeypatch.setattr(load, "load", stand_in)
    report = verify(intact, variants=["tf32"], engines=["cuda"], device=1)
    golden = [check for check in report.checks if check.name.startswith("golden")]
    assert golden
    assert all(check.passed == passes for check in golden), [check.message for check in golden]


@pytest.mark.parametrize(("engines", "named"), [(None, "auto"), (["auto"], "auto"), (["onnxruntime"], "onnxruntime")])
def test_a_device_without_an_engine_that_has_devices_is_refused(intact, engines, named):
    with pytest.raises(UsageError, match=f"device is 1 and engine is '{named}', expected engine 'cuda'"):
        verify(intact, engines=engines, device=1)


def test_bf16_needs_the_fp32_file(intact, monkeypatch):
    plan_with_openvino(monkeypatch, BF16_CPU)
    manifest = read_manifest(intact)
    without = dataclasses.replace(manifest, variants={"int8": next(iter(manifest.variants.values()))}, fingerprint="")
    assert {item.variant for item in combinations(without)} == {"int8"}
    with pytest.raises(UsageError, match="the bundle has no variant 'bf16', it has int8"):
        combinations(without, variants=["bf16"], engines=["openvino"])


PACKED = "onnx/model_fp16_packed.onnx"


@pytest.fixture
def with_packed(tmp_path):
    """fp32 and fp16, which has a form for GPUs."""
    folder = build_golden_bundle(tmp_path / "packed", variants={"fp32": None, "fp16": None})
    (folder / PACKED).write_bytes(b"a graph for a GPU")
    manifest = read_manifest(folder)
    fp16 = dataclasses.replace(manifest.variants["fp16"], engine_files={"cuda": (describe(folder, PACKED),)})
    agree(folder, dataclasses.replace(manifest, variants={**manifest.variants, "fp16": fp16}))
    return folder


def test_a_form_for_a_gpu_is_told_and_not_run_on_a_cpu(with_packed):
    """The variant's vectors are those of its own file, whatever is in the other one."""
    report = verify(with_packed)
    assert report.passed, report.failures
    assert [(check.variant, check.engine) for check in report.checks if check.name == "golden cls"] == [
        ("fp32", "onnxruntime"),
        ("fp16", "onnxruntime"),
    ]
    (skipped,) = report.skipped
    assert (skipped.name, skipped.variant, skipped.engine) == ("load", "fp16", "cuda")
    assert skipped.message == f"{PACKED} is fp16 for a GPU, compared with PyTorch at export; run it here with --engine cuda"


@pytest.mark.parametrize(
    ("options", "told"),
    [({"variants": ["fp16"]}, 1), ({"variants": ["fp32"]}, 0), ({"engines": ["onnxruntime"]}, 0), ({"engines": ["auto"]}, 0)],
)
def test_a_form_for_a_gpu_is_told_where_no_engine_is_named(with_packed, options, told):
    report = verify(with_packed, **options)
    assert report.passed, report.failures
    assert len(report.skipped) == told


def test_with_the_gpus_engine_its_own_form_is_what_is_held(with_packed, monkeypatch):
    """The same module stands in for it: the file that it is given is no graph."""
    monkeypatch.setitem(choice.ENGINES, "cuda", dataclasses.replace(choice.ENGINES["onnxruntime"], by_name=("fp32", "fp16")))
    monkeypatch.setattr("cls_runtime.engines.onnxruntime.load", load_as_cuda)
    messages = failed(with_packed, engines=["cuda"])
    assert list(messages) == ["load"]
    assert PACKED in messages["load"]
    assert verify(with_packed, engines=["cuda"], variants=["fp32"]).passed


def load_as_cuda(bundle, *, variant, threads, **others):
    del others
    return onnxruntime.load_graph(bundle.graph(variant, engine="cuda"), bundle.manifest, threads=threads)


@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_form_for_a_gpu_is_found_without_one(with_packed, damage):
    path = with_packed / PACKED
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"A graph for a GPU" if damage == "changed" else b"a graph")
    messages = failed(with_packed)
    assert next(iter(messages)) == "files"
    assert PACKED in messages["files"]


def test_auto_is_what_an_encoder_takes(damageable):
    with Encoder.load(damageable) as encoder:
        taken = (encoder.info.variant, encoder.info.engine)
    assert {(check.variant, check.engine) for check in verify(damageable, variants=["auto"], engines=["auto"]).checks[2:]} == {taken}
    assert {check.variant for check in verify(damageable, variants=["auto"]).checks} == {None, "int8"}
    assert {check.variant for check in verify(damageable, engines=["auto"]).checks} == {None, "fp32", "int8"}


def test_a_combination_that_was_asked_for_fails_where_it_cannot_run(tmp_path):
    elsewhere = Variant(files=(), recipe={}, parity={"cls": EXACT}, batch_invariance_max_abs=0.0, engines=("tvm",))
    folder = build_golden_bundle(tmp_path / "two", variants={"fp32": None, "fp16": None})
    manifest = read_manifest(folder)
    entry = dataclasses.replace(elsewhere, files=manifest.variants["fp16"].files)
    agree(folder, dataclasses.replace(manifest, variants={**manifest.variants, "fp16": entry}))
    report = verify(folder)
    assert report.passed
    assert [check.variant for check in report.skipped] == ["fp16"]
    assert verify(folder, engines=["onnxruntime"]).passed
    assert list(failed(folder, variants=["fp16"], engines=["onnxruntime"])) == ["load"]
    assert list(failed(folder, variants=["fp16"])) == ["load"]  # nothing else ran, so nothing was verified


def test_no_engine_and_unknown_engines_are_errors(intact, monkeypatch):
    with pytest.raises(UsageError, match="engine is 'warp', expected one of auto, onnxruntime"):
        verify(intact, engines=["warp"])
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", tuple)
    with pytest.raises(MissingExtraError, match="pip install"):
        verify(intact)


def test_checks_run_one_by_one_in_any_order(damageable):
    with Verification(damageable) as verification:
        done = {(item.name, item.variant): verification.run(item) for item in reversed(verification.plan)}
    assert len(done) == len(verification.plan) == 2 + 2 * len(VECTOR_CHECKS)
    assert all(check.passed for check in done.values())


# ---------------------------------------------------------------- what must be refused


@pytest.mark.parametrize(
    ("target", "replacement", "message"),
    [
        (
            "cls_runtime.encoding.finishing.finish_rows",
            lambda rows, **options: None,
            "a NaN vector (expected InvalidVectorError, found vectors)",
        ),
        (
            "cls_runtime.encoding.runner.check_overflow",
            lambda truncated, **options: None,
            "a text over the maximum, with on_overflow='raise'",
        ),
        ("cls_runtime.encoder.iterable_of_texts", lambda texts: texts, "a str instead of a list (expected TypeError, found vectors)"),
        (
            "cls_runtime.encoder.checked_texts",
            lambda texts: list(map(str, texts)),
            "a number as a text (expected TypeError, found vectors)",
        ),
    ],
)
def test_a_runtime_that_no_longer_refuses_is_noticed(intact, monkeypatch, target, replacement, message):
    monkeypatch.setattr(target, replacement)
    messages = failed(intact)
    assert list(messages) == ["refusals"]
    assert messages["refusals"].startswith("not refused: ")
    assert message in messages["refusals"]


# ---------------------------------------------------------------- bundles that are used in other ways than 0.1 knows


@pytest.fixture(scope="module")
def mean(tmp_path_factory):
    """The mean of every token's row, given too, with a prompt before every text, a cut and unit length, none of which the checks see."""
    return build_golden_bundle(
        tmp_path_factory.mktemp("mean") / "tiny",
        pooling="mean",
        token_rows=True,
        normalize=True,
        prompts={"query": "find the dog: "},
        default_prompt_name="query",
        truncate_dim=4,
    )


def test_a_mean_with_a_default_prompt_a_cut_and_tokens_passes(mean):
    report = verify(mean)
    assert report.passed, report.failures
    names = {check.name for check in report.checks}
    assert {"golden sentence", "golden tokens", "golden pooler", "golden logits", "truncation", "batch invariance", "finite"} <= names
    (tokens,) = (check for check in report.checks if check.name == "golden tokens" and check.passed)
    assert re.fullmatch(r"\d+ rows of 9 texts, lowest cosine 1\.0+, largest difference .*", tokens.message)


@pytest.mark.parametrize(
    ("damage", "checks"),
    [
        (lambda golden: {"sentence": nudged(golden.vectors["sentence"], 1, 0.1)}, {"golden sentence"}),
        (lambda golden: {"tokens": nudged(golden.vectors["tokens"], 5, 0.1)}, {"golden tokens"}),
        (lambda golden: {"sentence": nudged(golden.vectors["sentence"], 5, 0.1)}, {"golden sentence", "truncation"}),
    ],
)
def test_a_wrong_mean_and_a_wrong_token_are_seen(mean, tmp_path, damage, checks):
    folder = Path(shutil.copytree(mean, tmp_path / "own"))
    golden = read_golden(folder / GOLDEN_NAME)
    replace_golden(folder, dataclasses.replace(golden, vectors={**golden.vectors, **damage(golden)}))
    assert set(failed(folder)) == checks


def test_a_graph_that_pools_the_padding_is_seen(mean, tmp_path):
    """Alone, a text has none."""
    folder = Path(shutil.copytree(mean, tmp_path / "own"))
    graph = onnx.load(folder / "onnx" / "model.onnx")
    (pooled,) = (node for node in graph.graph.node if node.op_type == "Equal" and node.input[0] == "attention_mask")
    pooled.input[0] = "one_token"
    pooled.input[1] = "one_token"
    (divided,) = (node for node in graph.graph.node if node.output[0] == "counted")
    divided.input[0] = "everything"
    everything = onnx.helper.make_node("GreaterOrEqual", ["attention_mask", "zero"], ["everything"])
    graph.graph.node.insert(list(graph.graph.node).index(divided), everything)
    onnx.save(graph, folder / "onnx" / "model.onnx")
    agree(folder)
    assert {"golden sentence", "batch invariance"} <= set(failed(folder))


def test_rows_of_other_tokens_are_named(mean, tmp_path):
    folder = Path(shutil.copytree(mean, tmp_path / "own"))
    golden = read_golden(folder / GOLDEN_NAME)
    more = tuple((*positions, 15) if len(positions) < 8 else positions for positions in golden.row_positions)
    rows = np.ones((sum(map(len, more)), golden.vectors["tokens"].shape[1]), dtype=np.float32)
    replace_golden(folder, dataclasses.replace(golden, row_positions=more, vectors={**golden.vectors, "tokens": rows}))
    assert "has the row of token 15 of text 0, which gets 3 tokens; the check of the tokens says why" in failed(folder)["golden tokens"]
