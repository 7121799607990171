"""`export()` end to end on a small checkpoint: what is in the bundle, and that whatever fails leaves nothing behind.

The tests that only look take the session's bundle of a bert; those that export take its traced graph.
"""

from __future__ import annotations

import functools
import shutil
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import checkpoints
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from exports import Exported, FamilyKind
from torch import Tensor

from cls_exporter import ExportConfig, ExportReport, export, exporting
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import Layout
from cls_exporter.errors import CheckpointError, GraphError, ParityError
from cls_exporter.gate.parity_texts import parity_texts
from cls_exporter.graph.graph_file import write_graph
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, known_dims
from cls_exporter.graph.passes.single_query_attention import SingleQueryAttention
from cls_exporter.variants import Built
from cls_exporter.variants import variant as variant_files
from cls_runtime import Encoder
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import read_golden
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.errors import CheckFailedError, UsageError

STEPS = ("Loading", "Checking the checkpoint with PyTorch", "Tracing", "Rewriting the graph", "Computing reference", "Writing", "Comparing")


@pytest.fixture(scope="session")
def exported(exported_family: Callable[[str, FamilyKind], Exported]) -> Exported:
    """A bert with a pooler, and its bundle; read-only. The last LayerNorm gives rows whose largest number is about 3, as a real model's."""
    return exported_family("bert", "encoder")


@pytest.fixture
def checkpoint(exported: Exported) -> Path:
    return exported.checkpoint


@pytest.fixture
def bundle(exported: Exported) -> Path:
    return exported.bundle


@pytest.mark.parametrize("spelling", ["{model}", "{model}/../model", "{link}", "{above}", "{link}/.."])
def test_the_checkpoint_is_not_replaced_under_whatever_name(tmp_path: Path, spelling: str) -> None:
    """It may even hold a bundle's manifest; nothing of it is read before this is refused."""
    above, model, link = tmp_path / "above", tmp_path / "above" / "model", tmp_path / "link"
    model.mkdir(parents=True)
    link.symlink_to(model)
    for folder in (above, model):
        (folder / "cls_export.json").write_text("{}")
    (model / "config.json").write_text("{}")
    target = spelling.format(model=model, link=link, above=above)
    with pytest.raises(UsageError, match="which is read and must stay as it is"):
        export(model, target, force=True)
    assert sorted(path.name for path in model.iterdir()) == ["cls_export.json", "config.json"]


@pytest.fixture
def own_bundle(bundle: Path, tmp_path: Path) -> Path:
    """A copy for one test, as `tmp_path / "bundle"`."""
    return Path(shutil.copytree(bundle, tmp_path / "bundle"))


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def shape_of(value: onnx.ValueInfoProto) -> list[int | str]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


# What an export writes


@pytest.mark.parametrize("layout", ["standard", "native", "broadcast"])
def test_the_signature_of_the_graph(layout: Layout, checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    report = export(checkpoint, tmp_path / "bundle", config=ExportConfig(pooler=True, layout=layout))
    graph = onnx.load(tmp_path / "bundle" / "onnx" / "model.onnx").graph
    assert [(value.name, shape_of(value)) for value in graph.input] == [
        (name, ["batch_size", "sequence_length"]) for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    assert {value.type.tensor_type.elem_type for value in graph.input} == {onnx.TensorProto.INT64}
    last = {"standard": [1], "broadcast": ["sequence_length"], "native": None}[layout]
    expected = [
        *([] if last is None else [("last_hidden_state", ["batch_size", *last, checkpoints.HIDDEN])]),
        ("sentence_embedding", ["batch_size", checkpoints.HIDDEN]),
        ("pooler_output", ["batch_size", checkpoints.HIDDEN]),
    ]
    assert [(value.name, shape_of(value)) for value in graph.output] == expected
    assert {value.type.tensor_type.elem_type for value in graph.output} == {onnx.TensorProto.FLOAT}
    assert [(output.name, output.width) for output in report.manifest.outputs] == [(name, checkpoints.HIDDEN) for name, _ in expected]
    assert report.manifest.layout == layout
    assert {node.domain for node in graph.node} == {""}


def test_last_hidden_state_is_the_embedding(bundle: Path) -> None:
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    ids = np.array([[2, 40, 41, 3], [2, 50, 3, 0]], dtype=np.int64)
    mask = (ids != 0).astype(np.int64)
    last, embedding, _ = session.run(None, {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)})
    np.testing.assert_array_equal(last[:, 0], embedding)


def test_no_weight_is_stored_that_no_operator_reads(bundle: Path) -> None:
    graph = onnx.load(bundle / "onnx" / "model.onnx").graph
    read = {name for node in graph.node for name in node.input}
    assert {item.name for item in graph.initializer} <= read


def test_the_manifest(bundle: Path, checkpoint: Path) -> None:
    manifest = Bundle.open(bundle, check_hashes=True).manifest
    loaded = load_checkpoint(str(checkpoint), config=ExportConfig(pooler=True))
    assert (manifest.source.name, manifest.source.weights_sha256) == ("small-bert", loaded.weights_sha256)
    assert manifest.source.tokenizer_sha256 == loaded.tokenizer_sha256
    assert (manifest.architecture, manifest.hidden_size, manifest.num_layers) == ("bert", checkpoints.HIDDEN, 2)
    assert manifest.max_length == checkpoints.MAX_POSITIONS
    assert manifest.inputs == ("input_ids", "attention_mask", "token_type_ids")
    assert manifest.pooler.state == "trained"
    assert list(manifest.variants) == ["fp32", "fp16", "int8"]
    variant = manifest.variants["fp32"]
    assert [file.path for file in variant.files] == ["onnx/model.onnx"]
    assert variant.recipe == {"weights": "float32", "compute": "float32", "native": {"weights": "float32"}}
    assert set(variant.parity) == {"cls", "pooler"}
    assert variant.parity["cls"].texts == len(read_golden(bundle / "golden.npz").texts)
    assert variant.parity["cls"].min_cosine >= 0.999999
    assert 0 <= variant.batch_invariance_max_abs <= 1e-5
    assert {"cls-export", "torch", "transformers", "onnx", "onnxruntime"} <= set(manifest.tool_versions)
    named = {file.path for file in Bundle.open(bundle).files()}
    assert named | {"cls_export.json", "README.md"} == {path.relative_to(bundle).as_posix() for path in bundle.rglob("*") if path.is_file()}
    assert {f"onnx/model{form}.onnx" for form in ("", "_fp16", "_int8", "_quantized")} < named
    assert {path.relative_to(bundle).parts[0] for path in bundle.rglob("*.safetensors")} == {"native"}  # none of the checkpoint's


def test_a_tokenizer_that_was_chosen_is_the_bundles(checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    folder = Path(shutil.copytree(checkpoint, tmp_path / "model"))
    checkpoints.edit_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", "do_lower_case": False})
    with pytest.raises(CheckpointError, match="has two tokenizers"):
        export(folder, tmp_path / "bundle")
    report = export(folder, tmp_path / "bundle", config=ExportConfig(pooler=True, tokenizer="file"))
    assert read_manifest(tmp_path / "bundle").tokenizer == report.manifest.tokenizer == "file"
    with Encoder.load(tmp_path / "bundle") as encoder:  # tokenizer.json has lower case, its settings have not
        assert np.array_equal(*encoder.encode(["The CAT sat", "the cat sat"]))


@pytest.mark.slow
def test_the_same_weights_under_another_configuration_have_another_fingerprint(checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    """No weight tells of the heads or of the epsilon; the graph does."""
    fingerprints = []
    for changes in ({}, {"num_attention_heads": 2, "layer_norm_eps": 1e-3}):
        folder = Path(shutil.copytree(checkpoint, tmp_path / f"model{len(fingerprints)}"))
        checkpoints.edit_json(folder / "config.json", changes)
        fingerprints.append(export(folder, tmp_path / f"bundle{len(fingerprints)}").manifest.fingerprint)
    assert len(set(fingerprints)) == len(fingerprints)


def test_golden_vectors_are_pytorchs_and_the_bundles(bundle: Path, checkpoint: Path) -> None:
    golden = read_golden(bundle / "golden.npz")
    loaded = load_checkpoint(str(checkpoint), config=ExportConfig(pooler=True))
    lengths = [len(loaded.tokenizer(text)["input_ids"]) for text in golden.texts]
    assert "" in golden.texts
    assert min(lengths) == 2
    assert {checkpoints.MAX_POSITIONS, 2 * checkpoints.MAX_POSITIONS} <= {min(length, 2 * checkpoints.MAX_POSITIONS) for length in lengths}
    with Encoder.load(bundle, variant="fp32", on_overflow="truncate") as encoder:
        for output in ("cls", "pooler"):
            np.testing.assert_allclose(encoder.encode(golden.inputs, output=output), golden.vectors[output], rtol=0, atol=5e-5)


def test_the_report(checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    said: list[str] = []
    report = export(checkpoint, tmp_path / "bundle", progress=said.append)
    assert isinstance(report, ExportReport)
    assert report.path == tmp_path / "bundle"
    assert [next(step for step in STEPS if words.startswith(step)) for words in said] == list(STEPS)
    assert set(report.seconds) == {"load", "check", "trace", "compile", "reference", "fp32", "parity", "total"}
    assert report.seconds["total"] >= max(report.seconds.values())
    assert report.multiply_adds["exported"] < report.multiply_adds["full"]
    assert report.parity["fp32"] == report.manifest.variants["fp32"].parity["cls"]
    assert left_in(tmp_path) == ["bundle"]


def test_the_manifest_is_written_once_after_the_last_figure(checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    """Nothing on the disk ever names figures that were not measured, not even in the folder that is being written."""
    seen: list[Path] = []

    def look(_: str) -> None:
        seen.extend(tmp_path.rglob("cls_export.json"))

    report = export(checkpoint, tmp_path / "bundle", config=ExportConfig(precisions=("fp32", "fp16")), progress=look)
    assert seen == []
    written = Bundle.open(tmp_path / "bundle").manifest
    assert written == report.manifest
    assert all(variant.parity["cls"].texts > 100 for variant in written.variants.values())


def test_weights_beyond_a_limit_go_into_a_file_beside_the_graph(
    checkpoint: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(variant_files, "write_graph", functools.partial(write_graph, external_above=10_000))
    report = export(checkpoint, tmp_path / "bundle")
    files = {file.path: file.size_bytes for file in report.manifest.variants["fp32"].files}
    assert list(files) == ["onnx/model.onnx", "onnx/model.onnx_data"]
    assert files["onnx/model.onnx_data"] > 10_000
    Bundle.open(tmp_path / "bundle", check_hashes=True)
    moved = (tmp_path / "bundle").rename(tmp_path / "moved")
    with Encoder.load(moved) as encoder:
        assert encoder.encode(["the cat"]).shape == (1, checkpoints.HIDDEN)


# Inputs that few people try


def run_graph(bundle: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    feed = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    (row,) = session.run(["sentence_embedding"], feed)
    return np.asarray(row)


def run_torch(checkpoint: Path, ids: np.ndarray, mask: np.ndarray) -> Tensor:
    model = load_checkpoint(str(checkpoint)).model
    with torch.inference_mode():
        return model(torch.from_numpy(ids), torch.from_numpy(mask), torch.zeros(ids.shape, dtype=torch.int64))[0]


@pytest.mark.parametrize("length", [1, 2, checkpoints.MAX_POSITIONS])
def test_from_one_token_to_the_maximum(length: int, bundle: Path, checkpoint: Path) -> None:
    ids = np.arange(3 * length, dtype=np.int64).reshape(3, length) * 7 % 90 + 5
    np.testing.assert_allclose(run_graph(bundle, ids, np.ones_like(ids)), run_torch(checkpoint, ids, np.ones_like(ids)), rtol=0, atol=5e-5)


def test_a_row_that_is_all_padding_is_finite_and_touches_no_other(bundle: Path, checkpoint: Path) -> None:
    ids = np.arange(24, dtype=np.int64).reshape(3, 8) + 5
    mask = np.ones_like(ids)
    mask[1] = 0
    mask[2, 5:] = 0
    rows = run_graph(bundle, ids, mask)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(rows, run_torch(checkpoint, ids, mask), rtol=0, atol=5e-5)
    np.testing.assert_allclose(rows[2:], run_graph(bundle, ids[2:, :5], mask[2:, :5]), rtol=0, atol=1e-5)


def test_padding_on_the_left_is_masked_like_padding_on_the_right(bundle: Path, checkpoint: Path) -> None:
    ids = np.arange(16, dtype=np.int64).reshape(2, 8) + 5
    mask = np.ones_like(ids)
    mask[0, :3] = 0
    np.testing.assert_allclose(run_graph(bundle, ids, mask), run_torch(checkpoint, ids, mask), rtol=0, atol=5e-5)


def test_a_tokenizer_without_token_types_makes_a_graph_without_them(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model")
    checkpoints.edit_json(folder / "tokenizer_config.json", {"model_input_names": ["input_ids", "attention_mask"]})
    report = export(folder, tmp_path / "bundle")
    assert report.manifest.inputs == ("input_ids", "attention_mask")
    graph = onnx.load(tmp_path / "bundle" / "onnx" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask"]


# What fails leaves nothing behind


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Callable[[Builder, ir.Value, ir.Graph], ir.Value]) -> None:
    """Lets every export write a graph whose embedding is `damage(build, row, graph)`."""
    build_variant = exporting.build_variant

    def build_damaged(*arguments: object, **options: object) -> Built:
        built = build_variant(*arguments, **options)  # type: ignore[arg-type]
        graph = built.model.graph
        place, row = next((place, value) for place, value in enumerate(graph.outputs) if value.name == "sentence_embedding")
        row.name = "whole_row"
        last = ir.node("Identity", [row])
        graph.append(last)
        changed = damage(Builder(last), row, graph)
        changed.name = "sentence_embedding"
        graph.remove(last, safe=True)
        graph.outputs[place] = changed
        return built

    monkeypatch.setattr(exporting, "build_variant", build_damaged)


def constant(build: Builder, value: float | list[float] | np.ndarray, name: str) -> ir.Value:
    return build.initializer(np.asarray(value, dtype=np.float32), name)


def scaled(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    """Every number 0.1% too large: no cosine sees it."""
    return build.node("Mul", [row, constant(build, 1.001, "damage")], known_dims(row))


def turned(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    """Every row turned by 8e-4: a cosine of about 1 - 3.2e-7."""
    return build.node("Add", [row, constant(build, off_by(8e-4), "damage")], known_dims(row))


def one_turned(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    """The rows of empty texts turned by 3e-3: a cosine of about 1 - 4.5e-6 for one of many."""
    batch, width = known_dims(row)
    second = build.node("Gather", [graph.inputs[0], build.ints([1], "damaged_place")], [batch, 1], attributes={"axis": 1})
    ends = build.node("Equal", [second, build.ints([checkpoints.special_ids("bert")["sep"]], "sep")], [batch, 1], dtype=ir.DataType.BOOL)
    empty = build.node("Cast", [ends], [batch, 1], dtype=ir.DataType.FLOAT, attributes={"to": int(ir.DataType.FLOAT)})
    difference = build.node("Mul", [empty, constant(build, off_by(3e-3), "damage")], [batch, width])
    return build.node("Add", [row, difference], [batch, width])


def other_in_a_batch(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    """2e-5 larger where the batch has two texts or more."""
    size = build.node("Shape", [row], [1], dtype=ir.DataType.INT64, attributes={"start": 0, "end": 1})
    many = build.node("Greater", [size, build.ints([1], "one_text")], [1], dtype=ir.DataType.BOOL)
    number = build.node("Cast", [many], [1], dtype=ir.DataType.FLOAT, attributes={"to": int(ir.DataType.FLOAT)})
    return build.node("Add", [row, build.node("Mul", [number, constant(build, 2e-5, "damage")], [1])], known_dims(row))


def not_a_number(build: Builder, row: ir.Value, graph: ir.Graph) -> ir.Value:
    return build.node("Add", [row, constant(build, float("nan"), "damage")], known_dims(row))


SMALL = 0.01  # the scale of `faint`'s rows


def off_by(angle: float) -> np.ndarray:
    """A vector of about `angle` times the length of `faint`'s rows, which are SMALL * sqrt(H) long."""
    return np.resize([1.0, -1.0], checkpoints.HIDDEN).astype(np.float32) * np.float32(angle * SMALL)


@pytest.fixture(scope="module")
def faint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose rows are so short that a cosine misses its threshold long before a difference does."""
    folder = checkpoints.make_checkpoint(tmp_path_factory.mktemp("export") / "faint-bert")
    weights = checkpoints.read_weights_of(folder)
    name = "encoder.layer.1.output.LayerNorm"
    weights[f"{name}.weight"] = torch.full((checkpoints.HIDDEN,), SMALL)
    weights[f"{name}.bias"] = torch.zeros(checkpoints.HIDDEN)
    checkpoints.write_weights_of(folder, weights)
    return folder


@pytest.mark.parametrize(
    ("source", "damage", "missed"),
    [
        ("faint", turned, r"cls against PyTorch has mean_cosine 0\.999999\d\d, expected at least 0\.9999999; worst is text"),
        ("faint", one_turned, r"cls against PyTorch has min_cosine 0\.99999\d+, expected at least 0\.999999; worst is text 0 ''"),
        ("checkpoint", scaled, r"cls against PyTorch has max_abs 0\.00\d+, expected at most 5e-05; worst is text"),
        ("checkpoint", other_in_a_batch, r"batch invariance max_abs [12]\.?\d*e-05, expected at most 1e-05; worst is text"),
        ("checkpoint", not_a_number, r"cls: \d+ of \d+ vectors hold NaN, infinity or only zeros, the first for text 0 ''"),
    ],
    ids=["mean cosine", "min cosine", "max abs", "batch invariance", "not finite"],
)
def test_a_damaged_graph_misses_each_threshold_and_leaves_nothing(
    source: str,
    damage: Callable[[Builder, ir.Value, ir.Graph], ir.Value],
    missed: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    traced_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    damaged(monkeypatch, damage)
    with pytest.raises(ParityError, match=r"^fp32 is not exported: " + missed) as raised:
        export(request.getfixturevalue(source), tmp_path / "bundle")
    assert isinstance(raised.value, CheckFailedError)
    assert raised.value.exit_code == 1
    assert left_in(tmp_path) == []


def test_the_same_checkpoints_pass_undamaged(faint: Path, tmp_path: Path, traced_once: None) -> None:
    """So it is the damage that fails them."""
    assert export(faint, tmp_path / "bundle").parity["fp32"].max_abs < 1e-6


@pytest.fixture
def old(own_bundle: Path) -> Iterator[bytes]:
    """The manifest of a bundle that an export is about to replace; it must be whole afterwards."""
    before = (own_bundle / "cls_export.json").read_bytes()
    yield before
    Bundle.open(own_bundle, check_hashes=True)


def test_an_existing_bundle_needs_force(old: bytes, own_bundle: Path, checkpoint: Path, traced_once: None) -> None:
    with pytest.raises(UsageError, match=r"bundle exists; use --force to replace it"):
        export(checkpoint, own_bundle)
    assert (own_bundle / "cls_export.json").read_bytes() == old
    report = export(checkpoint, own_bundle, force=True)
    assert [output.name for output in report.manifest.outputs] == ["last_hidden_state", "sentence_embedding"]
    assert (own_bundle / "cls_export.json").read_bytes() != old
    assert left_in(own_bundle.parent) == ["bundle"]


def test_a_failed_check_leaves_the_old_bundle(
    old: bytes, own_bundle: Path, checkpoint: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(monkeypatch, scaled)
    with pytest.raises(ParityError):
        export(checkpoint, own_bundle, force=True)
    assert (own_bundle / "cls_export.json").read_bytes() == old
    assert left_in(own_bundle.parent) == ["bundle"]


@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_leaves_the_old_bundle(step: str, old: bytes, own_bundle: Path, checkpoint: Path, traced_once: None) -> None:
    def interrupt(words: str) -> None:
        if words.startswith(step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        export(checkpoint, own_bundle, force=True, progress=interrupt)
    assert (own_bundle / "cls_export.json").read_bytes() == old
    assert left_in(own_bundle.parent) == ["bundle"]


@pytest.mark.slow
@pytest.mark.parametrize("step", ["Tracing", "Comparing"])
def test_a_killed_export_leaves_the_old_bundle_and_the_next_one_cleans_up(
    step: str, old: bytes, own_bundle: Path, checkpoint: Path, traced_once: None
) -> None:
    script = """
        import os, signal, sys
        from cls_exporter import export

        def kill(words):
            if words.startswith(sys.argv[3]):
                os.kill(os.getpid(), signal.SIGKILL)

        export(sys.argv[1], sys.argv[2], force=True, progress=kill)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(checkpoint), str(own_bundle), step]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (own_bundle / "cls_export.json").read_bytes() == old
    Bundle.open(own_bundle, check_hashes=True)
    assert len(left_in(own_bundle.parent)) == 3  # what it was writing, and its lock
    export(checkpoint, own_bundle, force=True)
    assert left_in(own_bundle.parent) == ["bundle"]


def test_a_rewrite_that_is_missing_leaves_nothing(
    checkpoint: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SingleQueryAttention, "call", lambda _, model: Rewritten.of(model, 0))
    with pytest.raises(GraphError, match="bert: 0 products of the last attention were reassociated, expected 2") as raised:
        export(checkpoint, tmp_path / "bundle")
    assert raised.value.exit_code == 1
    assert left_in(tmp_path) == []


def test_calibration_texts_are_read_before_there_is_any_work(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("\n", encoding="utf-8")
    config = ExportConfig(precisions=("int8",), calibration=tmp_path / "texts.txt")
    with pytest.raises(UsageError, match=r"texts\.txt holds no text"):
        export(tmp_path / "no checkpoint", tmp_path / "bundle", config=config)
    assert left_in(tmp_path) == ["texts.txt"]


def test_a_module_that_torch_cannot_export_is_one_line(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    with pytest.raises(GraphError, match=r"^torch cannot export small-bert as a graph \(RuntimeError: first line second line\)$"):
        export(checkpoint, tmp_path / "bundle")
    assert left_in(tmp_path) == []


def test_parity_texts_reach_the_maximum_exactly(checkpoint: Path) -> None:
    loaded = load_checkpoint(str(checkpoint))
    texts = parity_texts(loaded.tokenizer, max_length=loaded.max_length)
    lengths = [len(loaded.tokenizer.backend_tokenizer.encode(text).ids) for text in texts[-4:]]
    assert all(length >= wanted for length, wanted in zip(lengths, (63, 64, 65, 128), strict=True))
    assert texts[0] == ""


def test_a_truncation_that_the_tokenizer_brought_along_does_not_shorten_them(checkpoint: Path) -> None:
    tokenizer = load_checkpoint(str(checkpoint)).tokenizer
    expected = parity_texts(tokenizer, max_length=64)
    tokenizer.backend_tokenizer.enable_truncation(16)
    assert parity_texts(tokenizer, max_length=64) == expected
