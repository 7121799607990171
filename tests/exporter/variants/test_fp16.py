"""The fp16 variant over all families: parity, size, fusions, CUDA kernels, and what overflows.

Nothing here runs on a GPU. The CPU provider computes a float16 graph in float32 between casts, so what float16 cannot hold is looked for in
the float32 graph too, and which operators a GPU computes is read from a list.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from checkpoints import families
from exports import Exported, ExportStore

from cls_exporter import ExportConfig, command, export, exporting
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.config import Layout
from cls_exporter.errors import GraphError, ParityError
from cls_exporter.graph.passes.attention_fusion import AttentionFusion
from cls_exporter.graph.passes.rewriting import Builder, Rewritten, known_dims
from cls_exporter.graph.passes.skip_layer_norm_fusion import SkipLayerNormFusion
from cls_exporter.variants import Built, cuda_kernels, half_graph, half_range
from cls_exporter.variants.variant import FILE_NAMES
from cls_runtime import Encoder
from cls_runtime.bundle.parity import THRESHOLDS, shortfalls
from cls_runtime.errors import CheckFailedError
from cls_runtime.verifying.verification import verify

ALWAYS = ("bert", "mpnet", "deberta-v2", "modernbert")  # the kinds of graph that the passes meet
BOTH = ("fp32", "fp16")
SIZES = ((1, 1), (1, 2), (3, 9), (2, checkpoints.MAX_POSITIONS - 2))  # B, S: one token, the smallest text, ragged, the longest


Exporter = Callable[[str], Exported]


@pytest.fixture(scope="module")
def exported(store: ExportStore) -> Exporter:
    """family -> its classifier's bundle, with every output that the family has; shared with other modules."""
    return lambda model_type: store.exported(model_type, "classifier")


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_every_output_is_at_parity(model_type: str, exported: Exporter) -> None:
    """Measured over the families: mean cosine 0.9999995, lowest 0.999999, largest difference 6.4e-3, alone against in a batch 4.9e-4."""
    variant = exported(model_type).report.manifest.variants["fp16"]
    assert {"cls", "logits"} <= set(variant.parity)
    for output, figures in variant.parity.items():
        assert figures.max_abs <= 2e-2, output
    assert not shortfalls(variant.parity["cls"], THRESHOLDS["fp16"])
    assert variant.batch_invariance_max_abs <= 1e-2


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_weights_and_compute_are_float16_inputs_and_outputs_are_not(model_type: str, exported: Exporter) -> None:
    item = exported(model_type)
    model, fp32 = (onnx.load(item.bundle / FILE_NAMES[variant][0]) for variant in BOTH)
    assert {value.type.tensor_type.elem_type for value in model.graph.input} == {onnx.TensorProto.INT64}
    assert {value.type.tensor_type.elem_type for value in model.graph.output} == {onnx.TensorProto.FLOAT}
    assert [value.name for value in model.graph.output] == [value.name for value in fp32.graph.output]
    assert [value.name for value in model.graph.input] == [value.name for value in fp32.graph.input]
    half, full = item.graph("fp16"), item.graph("fp32")
    products = [node for node in half.graph if node.op_type in ("MatMul", "Gemm", "MultiHeadAttention", "SkipLayerNormalization")]
    angles = [node for node in products if node.inputs[0] is not None and node.inputs[0].const_value is not None]  # frequencies x positions
    assert {node.outputs[0].dtype for node in products if node not in angles} == {ir.DataType.FLOAT16}
    tables = sum(value.nbytes for value in float_constants(half) if value.dtype == ir.DataType.FLOAT)
    halves = sum(value.nbytes for value in float_constants(half) if value.dtype == ir.DataType.FLOAT16)
    whole = sum(value.nbytes for value in float_constants(full))
    rotations = 4 * checkpoints.MAX_POSITIONS * 8 if model_type == "roformer" else 0
    assert tables <= rotations + 128
    assert halves <= 0.5 * whole


def float_constants(model: ir.Model) -> list[ir.TensorProtocol]:
    tensors = [value.const_value for value in model.graph.initializers.values() if value.const_value is not None]
    return [tensor for tensor in tensors if tensor.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)]


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_attention_and_norms_are_fused(model_type: str, exported: Exporter) -> None:
    item = exported(model_type)
    layers = item.report.manifest.num_layers
    graph = item.graph("fp16").graph
    count = Counter(node.op_type for node in graph if node.domain == "com.microsoft")
    assert count["MultiHeadAttention"] == (layers - 1 if model_type != "deberta-v2" else 0)
    assert count["SkipLayerNormalization"] == 2 * layers
    assert sum(node.op_type == "Softmax" for node in graph) == (1 if model_type != "deberta-v2" else layers)


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_every_operator_has_a_cuda_kernel(model_type: str, exported: Exporter) -> None:
    assert cuda_kernels.without_cuda_kernel(exported(model_type).graph("fp16")) == []


def test_the_list_of_kernels_names_its_source() -> None:
    content = json.loads((Path(cuda_kernels.__file__).parent / cuda_kernels.LIST_NAME).read_text())
    assert content["source"].startswith("https://github.com/microsoft/onnxruntime/blob/")
    commit = re.search(r"[0-9a-f]{40}", content["version"])
    assert commit is not None
    assert commit[0] in content["source"]


@pytest.mark.parametrize(
    ("op_type", "domain", "dtype", "expected"),
    [
        ("Range", "", ir.DataType.FLOAT16, "ai.onnx::Range (opset 20; float16, float16, float16)"),
        ("NonMaxSuppression", "", ir.DataType.FLOAT, "ai.onnx::NonMaxSuppression"),
        ("Gelu", "", ir.DataType.INT64, "ai.onnx::Gelu (opset 20; int64"),
        ("NoSuchFusion", "com.microsoft", ir.DataType.FLOAT16, "com.microsoft::NoSuchFusion (opset 1"),
        ("Gelu", "", ir.DataType.FLOAT16, None),
    ],
)
def test_an_operator_without_a_kernel_is_found(op_type: str, domain: str, dtype: ir.DataType, expected: str | None) -> None:
    inputs = [ir.Value(name=f"x{index}", type=ir.TensorType(dtype)) for index in range(3 if op_type == "Range" else 1)]
    node = ir.node(op_type, inputs, domain=domain, outputs=[ir.Value(name="y", type=ir.TensorType(dtype))])
    model = ir.Model(ir.Graph(inputs, list(node.outputs), nodes=[node], opset_imports={"": 20, "com.microsoft": 1}), ir_version=10)
    missing = cuda_kernels.without_cuda_kernel(model)
    assert missing == [] if expected is None else missing[0].startswith(expected)


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_one_token_the_longest_input_ragged_lengths_and_a_row_of_padding(model_type: str, exported: Exporter) -> None:
    """Rows that are padding only must give numbers, the others fp32's."""
    item = exported(model_type)
    half, full = item.session("fp16"), item.session("fp32")
    for batch, length in SIZES:
        feed = feed_of(full, batch, length)
        counted = feed["attention_mask"].any(1)
        for value, reference in zip(half.run(None, feed), full.run(None, feed), strict=True):
            assert np.isfinite(value).all(), (batch, length)
            np.testing.assert_allclose(value[counted], reference[counted], rtol=0, atol=2e-2)


def feed_of(session: onnxruntime.InferenceSession, batch: int, length: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(length).integers(5, 40, (batch, length))
    mask = np.ones_like(ids)
    if batch > 1:
        mask[0, 1:] = 0
        mask[1] = 0
    ids[mask == 0] = 1
    arrays = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    return {item.name: arrays[item.name] for item in session.get_inputs()}


def test_padding_may_be_on_either_side_and_in_the_middle(exported: Exporter) -> None:
    """Lengths alone, which ONNX Runtime's optimizer hands to its attention, would say nothing of these."""
    item = exported("bert")
    half, full = item.session("fp16"), item.session("fp32")
    feed = feed_of(full, 3, 9)
    feed["attention_mask"][:] = [[0, 0, 0, 1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 1, 1, 0, 1, 0], [1, 1, 1, 1, 1, 0, 0, 0, 0]]
    for value, reference in zip(half.run(None, feed), full.run(None, feed), strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=2e-2)


# What overflows


@pytest.fixture(scope="module")
def small(store: ExportStore) -> Path:
    return store.checkpoint("bert", "encoder")


def scaled(source: Path, folder: Path, name: str, factor: float) -> Path:
    """A copy of a checkpoint with every weight whose name ends in `name` scaled."""
    shutil.copytree(source, folder)
    weights = checkpoints.read_weights_of(folder)
    assert any(key.endswith(name) for key in weights)
    checkpoints.write_weights_of(folder, {key: value * factor if key.endswith(name) else value for key, value in weights.items()})
    return folder


EXTREMES = {
    "attention.self.query.weight": (100.0, 1e6),
    "attention.self.value.weight": (100.0, 1e6),
    "intermediate.dense.weight": (100.0, 1e6),
    "attention.output.LayerNorm.weight": (30.0, 1e6),
}


@pytest.mark.parametrize("name", EXTREMES)
def test_large_activations_stay_at_parity(name: str, small: Path, tmp_path: Path, traced_once: None) -> None:
    """fp32 may miss its own bound of 5e-5 on such a model, so it is left out."""
    source = scaled(small, tmp_path / "source", name, EXTREMES[name][0])
    report = export(source, tmp_path / "bundle", config=ExportConfig(precisions=("fp16",)))
    variant = report.manifest.variants["fp16"]
    assert not shortfalls(variant.parity["cls"], THRESHOLDS["fp16"])


@pytest.mark.parametrize("name", EXTREMES)
def test_activations_beyond_float16_end_with_the_reason(name: str, small: Path, tmp_path: Path, traced_once: None) -> None:
    source = scaled(small, tmp_path / "source", name, EXTREMES[name][1])
    with pytest.raises((ParityError, GraphError), match=r"^fp16 (is not exported: .* for text \d+ '|cannot hold .*\.weight)") as raised:
        export(source, tmp_path / "bundle", config=ExportConfig(precisions=("fp16",)))
    assert raised.value.exit_code == 1
    assert not (tmp_path / "bundle").exists()


def test_the_message_says_where_and_for_which_text(
    small: Path, tmp_path: Path, traced_once: None, capsys: pytest.CaptureFixture[str]
) -> None:
    source = scaled(small, tmp_path / "source", "intermediate.dense.bias", 1e6)
    code = command.main([str(source), "-o", str(tmp_path / "bundle"), "--fp16", "--no-fp32"])
    assert code == 1
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("error: fp16 is not exported: the output of Add with ")
    assert " for text " in line


def test_the_range_is_measured_on_the_text_that_reaches_it(small: Path, store: ExportStore) -> None:
    loaded = load_checkpoint(str(small))
    graph = store.trace(loaded)
    value = next(node.outputs[0] for node in graph.graph if node.op_type == "LayerNormalization")
    limit = half_range.check_range(graph, [value], checkpoint=loaded, texts=["the cat", "a dog"])
    assert 0.1 < limit < 100
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(half_range, "LIMIT", limit * 0.999)
        message = r"the output of LayerNormalization with .*LayerNorm.* reaches .* for text [01] '(the cat|a dog)', float16 ends at 65504"
        with pytest.raises(ParityError, match=message) as raised:
            half_range.check_range(graph, [value], checkpoint=loaded, texts=["the cat", "a dog"])
    assert isinstance(raised.value, CheckFailedError)


# What must have happened, and what a gate finds


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AttentionFusion, "bert: 0 attentions were fused for fp16 in 2 layers, expected 1"),
        (SkipLayerNormFusion, "bert: 0 residual norms were fused for fp16 in 2 layers, expected 4"),
    ],
)
def test_a_fusion_that_stops_to_match_is_an_error(
    kind: type[ir.passes.InPlacePass], message: str, small: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kind, "call", lambda _, model: Rewritten.of(model, 0))
    with pytest.raises(GraphError, match=message):
        export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))
    assert not (tmp_path / "bundle").exists()


def test_a_graph_without_a_kernel_is_an_error(small: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(half_graph, "without_cuda_kernel", lambda model: ["ai.onnx::Gelu (opset 20; float16)"])
    with pytest.raises(GraphError, match="bert: ONNX Runtime has no CUDA kernel for ai.onnx::Gelu"):
        export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))


def test_an_operator_that_cuda_has_in_float32_only_is_left_in_it(
    small: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = json.loads(json.dumps(cuda_kernels._kernels()))
    known[""]["Gelu"][0]["types"]["T"].remove("float16")
    monkeypatch.setattr(cuda_kernels, "_kernels", lambda: known)
    report = export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))
    graph = ir.load(tmp_path / "bundle" / FILE_NAMES["fp16"][0])
    kinds = {(node.op_type, node.outputs[0].dtype) for node in graph.graph if node.op_type in ("Gelu", "LayerNormalization", "MatMul")}
    assert kinds == {("Gelu", ir.DataType.FLOAT), ("LayerNormalization", ir.DataType.FLOAT16), ("MatMul", ir.DataType.FLOAT16)}
    assert any("fp16: Gelu stays in float32" in note for note in report.notes)
    assert report.manifest.variants["fp16"].recipe["float32_operators"] == ["Gelu"]


def changed(monkeypatch: pytest.MonkeyPatch, change: Callable[[Builder, ir.Value], ir.Value]) -> None:
    """Makes the export write an fp16 graph whose embedding is `change` of the right one."""

    def build(variant: str, model: ir.Model, **others: Any) -> Built:
        built = exporting_build(variant, model, **others)
        if variant == "fp16":
            embedding = next(value for value in built.model.graph.outputs if value.name == "sentence_embedding")
            node = embedding.producer()
            assert node is not None
            row = node.inputs[0]
            assert row is not None
            node.replace_input_with(0, change(Builder(node), row))
        return built

    exporting_build = exporting.build_variant
    monkeypatch.setattr(exporting, "build_variant", build)


def noisy(size: float) -> Callable[[Builder, ir.Value], ir.Value]:
    """Adds to each component: turns every vector."""

    def change(build: Builder, row: ir.Value) -> ir.Value:
        noise = np.random.default_rng(0).standard_normal(checkpoints.HIDDEN).astype(np.float16) * np.float16(size)
        return build.node("Add", [row, build.initializer(noise, "noise")], known_dims(row))

    return change


def larger(build: Builder, row: ir.Value) -> ir.Value:
    """The same direction, longer."""
    return build.node("Mul", [row, build.initializer(np.array(1.02, dtype=np.float16), "factor")], known_dims(row))


def other_in_a_batch(build: Builder, row: ir.Value) -> ir.Value:
    """0.3% longer beside a neighbour, within the threshold of its own."""
    ids = next(value for value in build.graph.inputs if value.name == "input_ids")
    rows = build.node("Shape", [ids], [1], dtype=ir.DataType.INT64, attributes={"start": 0, "end": 1})
    alone = build.node("Equal", [rows, build.ints([1], "one_row")], [1], dtype=ir.DataType.BOOL)
    factors = [build.initializer(np.array([value], dtype=np.float16), name) for value, name in ((1.0, "alone"), (1.005, "beside"))]
    return build.node("Mul", [row, build.node("Where", [alone, *factors], [1], dtype=ir.DataType.FLOAT16)], known_dims(row))


def not_a_number(build: Builder, row: ir.Value) -> ir.Value:
    minus_one = build.initializer(np.array(-1, dtype=np.float16), "minus_one")
    return build.node("Mul", [row, build.node("Sqrt", [minus_one], [])], known_dims(row))


@pytest.mark.parametrize(
    ("damage", "missed"),
    [
        (noisy(0.008), r"cls against PyTorch has .*mean_cosine 0\.9999[0-9]*, expected at least 0\.99999"),
        (noisy(0.03), r"cls against PyTorch has .*min_cosine 0\.99[0-9]*, expected at least 0\.9999"),
        (larger, r"cls against PyTorch has max_abs 0\.0[0-9]*, expected at most 0\.02; worst is text \d+ .*; tried: attention scaled"),
        (other_in_a_batch, r"batch invariance max_abs 0\.01[0-9]*, expected at most 0\.01; worst is text"),
        (not_a_number, r"cls: \d+ of \d+ vectors hold NaN, infinity or only zeros, the first for text"),
    ],
    ids=["mean cosine", "min cosine", "max abs", "batch invariance", "not finite"],
)
def test_a_damaged_graph_misses_each_threshold(
    damage: Callable[[Builder, ir.Value], ir.Value],
    missed: str,
    small: Path,
    tmp_path: Path,
    traced_once: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changed(monkeypatch, damage)
    with pytest.raises(ParityError, match=r"^fp16 is not exported: " + missed) as raised:
        export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))
    assert raised.value.exit_code == 1
    assert not (tmp_path / "bundle").exists()


def not_a_number_for_padding(build: Builder, row: ir.Value) -> ir.Value:
    """What a mask of minus infinity makes of a row without a token: 0 / 0. No text has such a row."""
    mask = next(value for value in build.graph.inputs if value.name == "attention_mask")
    tokens = build.node("ReduceMax", [mask, build.ints([1], "axis_1")], [known_dims(mask)[0], 1])
    counted = build.node("Cast", [tokens], [known_dims(mask)[0], 1], dtype=ir.DataType.FLOAT16, attributes={"to": int(ir.DataType.FLOAT16)})
    return build.node("Mul", [row, build.node("Div", [counted, counted], [known_dims(mask)[0], 1])], known_dims(row))


def test_a_row_of_padding_that_gives_no_number_is_found(
    small: Path, tmp_path: Path, traced_once: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed(monkeypatch, not_a_number_for_padding)
    message = "fp16 is not exported: cls is not finite for a batch of the longest text, one token and a row of padding only"
    with pytest.raises(ParityError, match=message):
        export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))
    assert not (tmp_path / "bundle").exists()


def test_the_same_checkpoint_passes_undamaged(small: Path, tmp_path: Path, traced_once: None) -> None:
    report = export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH))
    assert list(report.manifest.variants) == ["fp32", "fp16"]
    recipe = report.manifest.variants["fp16"].recipe
    assert (recipe["fused_attentions"], recipe["fused_norms"], recipe["scaled_products"]) == (1, 4, 2)
    assert 0 < recipe["largest_activation"] < half_range.LIMIT


@pytest.mark.parametrize("layout", ["native", "broadcast"])
def test_every_layout_has_fp32s_outputs(layout: Layout, small: Path, tmp_path: Path, traced_once: None) -> None:
    report = export(small, tmp_path / "bundle", config=ExportConfig(precisions=BOTH, layout=layout))
    half, full = (Exported(small, tmp_path / "bundle", report).session(variant) for variant in ("fp16", "fp32"))
    assert [(item.name, item.shape, item.type) for item in half.get_outputs()] == [
        (item.name, item.shape, item.type) for item in full.get_outputs()
    ]
    feed = feed_of(full, 1, 7)
    for value, reference in zip(half.run(None, feed), full.run(None, feed), strict=True):
        np.testing.assert_allclose(value, reference, rtol=0, atol=2e-2)


@pytest.mark.gpu
@pytest.mark.parametrize("model_type", ALWAYS)
def test_on_a_gpu(model_type: str, exported: Exporter, tmp_path: Path) -> None:
    """cls-verify's checks, within fp16's thresholds; and what is not a shape is computed by CUDA. Not run yet: no GPU was at hand."""
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed onnxruntime has no CUDA provider")
    item = exported(model_type)
    report = verify(item.bundle, variants=["fp16"], engines=["cuda"])
    assert report.failures == ()
    options = onnxruntime.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(tmp_path / "profile")
    path = item.bundle / FILE_NAMES["fp16"][0]
    session = onnxruntime.InferenceSession(path, options, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    session.run(None, feed_of(session, 3, 9))
    events = json.loads(Path(session.end_profiling()).read_text())
    ran = {(event["args"]["op_name"], event["args"]["provider"]) for event in events if "provider" in event.get("args", {})}
    heavy = {"MatMul", "Gemm", "MultiHeadAttention", "SkipLayerNormalization", "LayerNormalization", "Gelu", "Softmax"}
    assert {provider for name, provider in ran if name in heavy} == {"CUDAExecutionProvider"}


@pytest.mark.slow
def test_the_real_model(minilm: Path, tmp_path: Path) -> None:
    """Measured: mean cosine 0.9999996, lowest 0.9999992, largest difference 3.9e-3, 4.9e-4 between alone and in a batch, 0.5001 of fp32."""
    report = export(minilm, tmp_path / "bundle", config=ExportConfig(pooler=True, precisions=BOTH, allow_pooling_mismatch=True))
    variants = report.manifest.variants
    assert variants["fp16"].files[0].size_bytes <= 0.51 * variants["fp32"].files[0].size_bytes
    for figures in variants["fp16"].parity.values():
        assert not shortfalls(figures, THRESHOLDS["fp16"])
    with Encoder.load(tmp_path / "bundle", variant="auto", engine="onnxruntime") as encoder:
        assert encoder.info.variant == "fp32"  # on a CPU fp16 is slower
