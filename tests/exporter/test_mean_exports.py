"""Exports of mean-pooled models: what the bundle says and holds, and damage that the gate must see in them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import checkpoints
import numpy as np
import onnx_ir as ir
import pytest

from cls_exporter import ExportConfig, export, exporting
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.errors import ParityError
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.graph.passes.rewriting import Builder, known_dims
from cls_exporter.variants import Built
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.token_sample import sampled_positions

Damage = Callable[[ir.Graph], None]
ALTERNATING = np.resize([1.0, -1.0], checkpoints.HIDDEN)  # times a vector: nearly at right angles to it
OUTPUTS = ["last_hidden_state", "sentence_embedding", "pooler_output"]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return checkpoints.make_checkpoint(tmp_path / "model")


def test_the_manifest_and_golden_vectors(checkpoint: Path, tmp_path: Path, traced_once: None) -> None:
    report = export(checkpoint, tmp_path / "bundle", config=ExportConfig(pooling="mean", pooler=True))
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert (manifest.pooling, manifest.token_rows, manifest.sentence_output) == ("mean", True, "sentence")
    assert [output.name for output in manifest.outputs] == OUTPUTS
    assert set(manifest.variants["fp32"].parity) == {"sentence", "pooler", "tokens"}
    assert report.parity["fp32"] == manifest.variants["fp32"].parity["sentence"]
    golden = read_golden(tmp_path / "bundle" / GOLDEN_NAME)
    assert golden.token_ids is not None
    assert golden.row_positions == tuple(tuple(sampled_positions(len(ids)).tolist()) for ids in golden.token_ids)
    assert manifest.variants["fp32"].parity["tokens"].texts == len(golden.texts)


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    build_variant = exporting.build_variant

    def build_damaged(*arguments: object, **options: object) -> Built:
        built = build_variant(*arguments, **options)  # type: ignore[arg-type]
        damage(built.model.graph)
        return built

    monkeypatch.setattr(exporting, "build_variant", build_damaged)


def replaced(graph: ir.Graph, name: str, make: Callable[[Builder, ir.Value, ir.Value], ir.Value]) -> None:
    """Output `name` becomes what `make` makes of the rows of all tokens and of it."""
    place, output = next((place, value) for place, value in enumerate(graph.outputs) if value.name == name)
    rows = next(value for value in graph.outputs if value.name == "last_hidden_state")
    if output is not rows:
        output.name = f"{name}.whole"
    last = ir.node("Identity", [output])
    graph.append(last)
    made = make(Builder(last), rows, output)
    if output is rows:
        output.name = f"{name}.whole"
    made.name = name
    graph.remove(last, safe=True)
    graph.outputs[place] = made


def over_padding(graph: ir.Graph) -> None:
    def mean(build: Builder, rows: ir.Value, sentence: ir.Value) -> ir.Value:
        axis = build.ints([1], "damage_axis")
        return build.node("ReduceMean", [rows, axis], known_dims(sentence), attributes={"keepdims": 0})

    replaced(graph, "sentence_embedding", mean)


def row_0(graph: ir.Graph) -> None:
    def first(build: Builder, rows: ir.Value, sentence: ir.Value) -> ir.Value:
        index = build.initializer(np.array(0, dtype=np.int64), "damage_index")
        return build.node("Gather", [rows, index], known_dims(sentence), attributes={"axis": 1})

    replaced(graph, "sentence_embedding", first)


def times(factor: float, name: str) -> Damage:
    def scaled(build: Builder, _: ir.Value, output: ir.Value) -> ir.Value:
        return build.node("Mul", [output, build.initializer(np.array(factor, dtype=np.float32), "damage")], known_dims(output))

    return lambda graph: replaced(graph, name, scaled)


def where(operator: str, equals: int, factors: np.ndarray) -> Damage:
    """Multiplies by 1 + `factors` [width] the vectors of those texts alone whose mask `operator` makes `equals` of."""

    def damage(graph: ir.Graph) -> None:
        def shifted(build: Builder, _: ir.Value, sentence: ir.Value) -> ir.Value:
            batch = known_dims(sentence)[0]
            axis, wanted = build.ints([1], "damage_axis"), build.ints([equals], "damage_equals")
            reduced = build.node(operator, [graph.inputs[1], axis], [batch, 1], dtype=ir.DataType.INT64, attributes={"keepdims": 1})
            hit = build.node("Equal", [reduced, wanted], [batch, 1], dtype=ir.DataType.BOOL)
            chosen = build.node("Cast", [hit], [batch, 1], dtype=ir.DataType.FLOAT, attributes={"to": int(ir.DataType.FLOAT)})
            change = build.node("Mul", [sentence, build.initializer(factors.astype(np.float32), "damage")], known_dims(sentence))
            moved = build.node("Mul", [change, chosen], known_dims(sentence))
            return build.node("Add", [sentence, moved], known_dims(sentence))

        replaced(graph, "sentence_embedding", shifted)

    return damage


@pytest.mark.parametrize(
    ("damage", "missed"),
    [
        (over_padding, r"sentence against PyTorch has mean_cosine 0\.\d+, expected at least 0\.9999999"),
        (row_0, r"sentence against PyTorch has mean_cosine 0\.\d+, expected at least 0\.9999999"),
        (times(1.001, "sentence_embedding"), r"sentence against PyTorch has max_abs 0\.00\d+, expected at most 5e-05"),
        (times(1.001, "last_hidden_state"), r"tokens against PyTorch has max_abs 0\.00\d+, expected at most 5e-05; worst is text \d+"),
        (times(float("nan"), "last_hidden_state"), r"tokens: \d+ of \d+ vectors hold NaN"),
    ],
    ids=["over padding", "row 0", "scaled", "rows scaled", "rows not finite"],
)
def test_damage_is_refused_and_leaves_nothing(
    damage: Damage, missed: str, checkpoint: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    damaged(monkeypatch, damage)
    with pytest.raises(ParityError, match=r"^fp32 is not exported: " + missed):
        export(checkpoint, tmp_path / "out" / "bundle", config=ExportConfig(pooling="mean"))
    assert list((tmp_path / "out").glob("*")) == []


def test_damage_to_one_text_alone_is_refused(checkpoint: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean over all texts is still good enough."""
    tokenizer = load_checkpoint(str(checkpoint)).tokenizer
    counts = Counter(len(ids) for ids in tokenizer(list(builtin_texts("parity")), truncation=True)["input_ids"])
    lone = min(count for count, texts in counts.items() if texts == 1)
    damaged(monkeypatch, where("ReduceSum", lone, 2.5e-3 * ALTERNATING))
    with pytest.raises(
        ParityError, match=r"^fp32 is not exported: sentence against PyTorch has min_cosine 0\.99999\d+, expected at least 0\.999999;"
    ):
        export(checkpoint, tmp_path / "bundle", config=ExportConfig(pooling="mean"))


def test_a_vector_that_padding_moves_is_refused(
    checkpoint: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By less than what parity allows."""
    damaged(monkeypatch, where("ReduceMin", 0, 2e-5 * ALTERNATING))
    with pytest.raises(ParityError, match=r"^fp32 is not exported: batch invariance max_abs \d\.\d+e-05, expected at most 1e-05; worst"):
        export(checkpoint, tmp_path / "bundle", config=ExportConfig(pooling="mean"))


def counting_prompts(graph: ir.Graph) -> None:
    equal = next(node for node in graph if node.op_type == "Equal" and node.inputs[0] is graph.inputs[1] and not node.domain)
    build = Builder(equal)
    shape = known_dims(equal.outputs[0])
    cast = build.node("Cast", [graph.inputs[1]], shape, dtype=ir.DataType.BOOL, attributes={"to": int(ir.DataType.BOOL)})
    build.replace(equal, cast)


def test_a_prompt_that_is_pooled_all_the_same_is_refused(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints.add_sentence_modules(checkpoint, pooling={"pooling_mode_mean_tokens": True, "include_prompt": False})
    loaded = exporting.load_checkpoint(str(checkpoint))
    assert not loaded.model.include_prompt
    damaged(monkeypatch, counting_prompts)
    missed = r"fp32 is not exported: sentence of texts with an unpooled prompt against PyTorch has "
    with pytest.raises(ParityError, match=missed):
        export(checkpoint, tmp_path / "bundle")
