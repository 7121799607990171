"""The packed form of fp16 in exports: at parity on a CPU, and whatever is wrong with it is refused."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx_ir as ir
import pytest
from exports import ExportStore

from cls_exporter import ExportConfig, export, exporting
from cls_exporter.config import PoolingChoice
from cls_exporter.errors import ParityError
from cls_exporter.gate import packed_engine, parity_gate
from cls_exporter.graph.families import FAMILIES
from cls_exporter.graph.passes.rewriting import Builder, constant, known_dims
from cls_exporter.variants import Built
from cls_runtime import Encoder
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import shortfalls, thresholds_for
from cls_runtime.engines.base import Int32, TokenBatch
from cls_runtime.engines.cuda.shapes import Shape

PACKED = "onnx/model_fp16_packed.onnx"
Damage = Callable[[ir.Graph], None]


def packed_families() -> list[str]:
    return [name for name, family in FAMILIES.items() if family.packed]


@pytest.fixture(scope="module")
def small(store: ExportStore) -> Path:
    return store.checkpoint("bert", "encoder")


@pytest.fixture(scope="module")
def sharp(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with attention that picks tokens out: with small random weights every token sees all others nearly alike."""
    folder = shutil.copytree(small, tmp_path_factory.mktemp("sharp") / "model")
    weights = checkpoints.read_weights_of(folder)
    for name in weights:
        if name.endswith(("query.weight", "key.weight")):
            weights[name] = weights[name] * 4
    checkpoints.write_weights_of(folder, weights)
    return folder


def fp16(pooling: PoolingChoice = "auto", **others: Any) -> ExportConfig:
    return ExportConfig(precisions=("fp16",), pooling=pooling, **others)


# ---------------------------------------------------------------- as it is


@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_it_is_held_beside_the_variants_own_form(
    pooling: PoolingChoice, small: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = {}
    hold = parity_gate.hold

    def remembered(graph: Path, *arguments: Any, **options: Any) -> parity_gate.Measured:
        held[graph.name] = hold(graph, *arguments, **options)
        return held[graph.name]

    monkeypatch.setattr(parity_gate, "hold", remembered)
    export(small, tmp_path / "bundle", config=fp16(pooling, pooler=True))
    bundle = Bundle.open(tmp_path / "bundle")
    variant = bundle.manifest.variants["fp16"]
    assert [file.path for file in variant.engine_files["cuda"]] == [PACKED]
    assert list(held) == ["model_fp16.onnx", "model_fp16_packed.onnx"]
    assert variant.parity == held["model_fp16.onnx"].parity  # what is recorded is what every engine can be held to
    packed = held["model_fp16_packed.onnx"]
    assert set(packed.parity) == set(bundle.manifest.recorded_outputs)
    for output, figures in packed.parity.items():
        assert shortfalls(figures, thresholds_for("fp16", output)) == []
    assert bundle.graph("fp16", engine="cuda").name == "model_fp16_packed.onnx"
    assert bundle.graph("fp16", engine="onnxruntime").name == "model_fp16.onnx"
    with Encoder.load(tmp_path / "bundle", engine="onnxruntime", variant="fp16") as encoder:  # the file that a CPU computes
        assert np.isfinite(encoder.encode(["a cat", "the dog runs"])).all()


@pytest.mark.parametrize(
    "model_type", [name if name == "roberta" else pytest.param(name, marks=pytest.mark.slow) for name in packed_families()]
)
def test_every_family_that_packs_is_at_parity(model_type: str, tmp_path: Path, store: ExportStore) -> None:
    bundle = Bundle.open(store.exported(model_type, "encoder").bundle)
    golden = read_golden(bundle.folder / GOLDEN_NAME)
    measured = parity_gate.hold(bundle.folder / PACKED, bundle, golden, variant="fp16", packed=True)
    assert set(measured.parity) == set(bundle.manifest.recorded_outputs)
    assert measured.batch_invariance.max_abs <= 1e-2


def test_prompts_that_are_read_and_not_pooled(tmp_path: Path, traced_once: None) -> None:
    """The batch with marked prompts goes through the packed form too."""
    folder = prompted_checkpoint(tmp_path / "model")
    export(folder, tmp_path / "bundle", config=fp16())
    assert "cuda" in Bundle.open(tmp_path / "bundle").manifest.variants["fp16"].engine_files


def prompted_checkpoint(folder: Path) -> Path:
    checkpoints.make_checkpoint(folder)
    checkpoints.add_sentence_modules(folder, pooling={"pooling_mode_mean_tokens": True, "include_prompt": False})
    checkpoints.edit_json(folder / "config_sentence_transformers.json", {"prompts": {"query": "the cat: "}, "default_prompt_name": None})
    return folder


# ---------------------------------------------------------------- damaged


def damaged(monkeypatch: pytest.MonkeyPatch, damage: Damage) -> None:
    build_variant = exporting.build_variant

    def build_damaged(*arguments: Any, **options: Any) -> Built:
        built = build_variant(*arguments, **options)
        model = built.engine_models["cuda"].clone()
        damage(model.graph)
        return dataclasses.replace(built, engine_models={**built.engine_models, "cuda": model})

    monkeypatch.setattr(exporting, "build_variant", build_damaged)


def graph_input(graph: ir.Graph, name: str) -> ir.Value:
    return next(value for value in graph.inputs if value.name == name)


def changed(graph: ir.Graph, name: str, make: Callable[[Builder, ir.Value], ir.Value]) -> None:
    """Whatever reads input `name` reads what `make` makes of it."""
    value = graph_input(graph, name)
    uses = list(value.uses())
    made = make(Builder(graph[0]), value)
    for use in uses:
        use.node.replace_input_with(use.idx, made)


def plus(number: int) -> Callable[[Builder, ir.Value], ir.Value]:
    def make(build: Builder, value: ir.Value) -> ir.Value:
        return build.node("Add", [value, build.initializer(np.array(number, dtype=np.int32), "damage")], known_dims(value))

    return make


def segments_end_one_early(graph: ir.Graph) -> None:
    """Every text but the last leaves its last token to the next one; a text alone is what it was."""

    def make(build: Builder, bounds: ir.Value) -> ir.Value:
        shape = known_dims(bounds)
        zero = build.initializer(np.array(0, dtype=np.int32), "damage_zero")
        last = build.node("ReduceMax", [bounds], [1], attributes={"keepdims": 1})
        inner = build.node(
            "And",
            [
                build.node("Less", [zero, bounds], shape, dtype=ir.DataType.BOOL),
                build.node("Less", [bounds, last], shape, dtype=ir.DataType.BOOL),
            ],
            shape,
        )
        one = build.node("Cast", [inner], shape, dtype=ir.DataType.INT32, attributes={"to": int(ir.DataType.INT32)})
        return build.node("Sub", [bounds, one], shape)

    changed(graph, "cu_seqlens", make)


def one_text(graph: ir.Graph) -> None:
    """All tokens see each other: the first text has all tokens, the others have none."""

    def make(build: Builder, bounds: ir.Value) -> ir.Value:
        shape = known_dims(bounds)
        zero = build.initializer(np.array(0, dtype=np.int32), "damage_zero")
        last = build.node("ReduceMax", [bounds], [1], attributes={"keepdims": 1})
        is_first = build.node("Equal", [bounds, zero], shape, dtype=ir.DataType.BOOL)
        return build.node("Where", [is_first, bounds, last], shape, dtype=ir.DataType.INT32)

    changed(graph, "cu_seqlens", make)


def next_row(graph: ir.Graph) -> None:
    """A text's vector is made of its second token's row, of the last text's of one token of the same."""

    def make(build: Builder, rows: ir.Value) -> ir.Value:
        shape = known_dims(rows)
        tokens = build.node("Size", [graph_input(graph, "input_ids")], [], dtype=ir.DataType.INT64)
        count = build.node("Cast", [tokens], [], dtype=ir.DataType.INT32, attributes={"to": int(ir.DataType.INT32)})
        one = build.initializer(np.array(1, dtype=np.int32), "damage_one")
        return build.node("Min", [build.node("Add", [rows, one], shape), build.node("Sub", [count, one], [])], shape)

    changed(graph, "cls_rows", make)


def shifted_rows(graph: ir.Graph) -> None:
    """What is pooled are each token's neighbour's rows."""
    restore = next(node for node in graph if node.op_type == "RestorePadding")
    rows = restore.inputs[0]
    assert rows is not None
    build = Builder(restore)
    zero, one, end = (build.ints([number], f"damage_{name}") for number, name in ((0, "zero"), (1, "one"), (2**31, "end")))
    parts = [build.node("Slice", [rows, *bounds], ["n", known_dims(rows)[1]]) for bounds in ((one, end), (zero, one))]
    restore.replace_input_with(0, build.node("Concat", parts, known_dims(rows), attributes={"axis": 0}))


def one_position_back(graph: ir.Graph) -> None:
    def make(build: Builder, places: ir.Value) -> ir.Value:
        before = plus(-1)(build, places)
        return build.node("Max", [before, build.initializer(np.array(0, dtype=np.int32), "damage_zero")], known_dims(places))

    changed(graph, "position_ids", make)


def bias_not_folded(graph: ir.Graph) -> None:
    """The first attention's output has another bias: what the value's bias adds to it is missing."""
    norm = next(node for node in graph if node.op_type == "SkipLayerNormalization" and len(node.inputs) > 4)
    bias = norm.inputs[4]
    array = constant(bias)
    assert array is not None
    norm.replace_input_with(4, Builder(norm).initializer((array * np.float16(0.5)).astype(array.dtype), "damage"))


def other_scale(graph: ir.Graph) -> None:
    """The query is scaled once more."""
    for node in graph:
        if node.op_type == "PackedMultiHeadAttention":
            node.attributes["scale"] = ir.AttrFloat32("scale", 8**-0.5)


def other_heads(graph: ir.Graph) -> None:
    for node in graph:
        if node.op_type == "PackedMultiHeadAttention":
            node.attributes["num_heads"] = ir.AttrInt64("num_heads", node.attributes["num_heads"].as_int() // 2)


def pools_prompts(graph: ir.Graph) -> None:
    def make(build: Builder, mask: ir.Value) -> ir.Value:
        return build.node("Min", [mask, build.initializer(np.array(1, dtype=np.int32), "damage")], known_dims(mask))

    changed(graph, "attention_mask", make)


def test_a_batch_that_is_filled_up_is_held_to_the_same_batch(
    sharp: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Damaged is what fills up: the first text has all tokens."""
    fill_up = packed_engine.filled
    fillers: list[set[int]] = []

    def with_one_text(batch: TokenBatch, shape: Shape, names: tuple[str, ...]) -> dict[str, Int32]:
        feeds = fill_up(batch, shape, names)
        fillers.append(set(feeds["input_ids"][batch.tokens :].tolist()))
        return {**feeds, "cu_seqlens": np.where(feeds["cu_seqlens"] > 0, shape.tokens, 0).astype(np.int32)}

    monkeypatch.setattr(packed_engine, "filled", with_one_text)
    with pytest.raises(ParityError, match=r"packed form model_fp16_packed\.onnx: cls of a batch of 8 texts with padding added: "):
        export(sharp, tmp_path / "bundle", config=fp16())
    assert fillers == [{checkpoints.special_ids("bert")["pad"]}]


DAMAGES: Mapping[str, tuple[PoolingChoice, Damage]] = {
    "a bias is not folded": ("auto", bias_not_folded),
    "the next row is taken": ("auto", next_row),
    "rows are shifted": ("mean", shifted_rows),
    "segments end one early": ("auto", segments_end_one_early),
    "segments end one early, mean": ("mean", segments_end_one_early),
    "all texts are one": ("auto", one_text),
    "positions are off by one": ("auto", one_position_back),
    "positions are off by one, mean": ("mean", one_position_back),
    "positions are beyond the table": ("auto", lambda graph: changed(graph, "position_ids", plus(1))),
    "token ids are off by one": ("auto", lambda graph: changed(graph, "input_ids", plus(-1))),
    "another scale": ("auto", other_scale),
    "other heads": ("auto", other_heads),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_packed_form_is_refused_and_leaves_nothing(
    name: str, sharp: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pooling, damage = DAMAGES[name]
    damaged(monkeypatch, damage)
    with pytest.raises(ParityError, match=r"^fp16 is not exported: its packed form model_fp16_packed\.onnx: "):
        export(sharp, tmp_path / "bundle", config=fp16(pooling))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("pooling", ["auto", "mean"])
def test_the_same_checkpoint_passes_undamaged(pooling: PoolingChoice, sharp: Path, tmp_path: Path, traced_once: None) -> None:
    report = export(sharp, tmp_path / "bundle", config=fp16(pooling))
    assert "cuda" in report.manifest.variants["fp16"].engine_files


def test_a_prompt_that_is_pooled_is_refused(tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = prompted_checkpoint(tmp_path / "model")
    damaged(monkeypatch, pools_prompts)
    with pytest.raises(ParityError, match=r"packed form .* of texts with an unpooled prompt"):
        export(folder, tmp_path / "bundle", config=fp16())
