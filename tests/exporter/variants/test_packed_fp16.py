"""fp16's packed form over all families: what its graph is made of, PyTorch's numbers, and what has none."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import onnx_ir as ir
import packed_operators
import pytest
import torch
from checkpoints import families
from exports import ExportStore
from packed_batches import batch_of, packed_feed, padded_feed

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.architectures import ARCHITECTURES
from cls_exporter.errors import GraphError
from cls_exporter.graph.families import FAMILIES, form_of
from cls_exporter.graph.passes.rewriting import MICROSOFT_DOMAIN, Rewritten
from cls_exporter.graph.passes.token_packing import TokenPacking
from cls_exporter.graph.pipeline import Compiled, compile_graph
from cls_exporter.variants import half_range, packed_fp16
from cls_exporter.variants.cuda_kernels import without_cuda_kernel
from cls_exporter.variants.fp16 import build_fp16
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS

TEXTS = ("a cat sat", "hello world the dog runs fast")
ALWAYS = ("bert", "roberta", "mpnet")
PADDED = {"mpnet", "deberta-v2", "roformer", "modernbert"}
LAYER = Counter(MatMul=6, Add=1, PackedMultiHeadAttention=1, SkipLayerNormalization=2)


def compiled_of(store: ExportStore, model_type: str, **options: Any) -> tuple[Checkpoint, Compiled]:
    checkpoint = load_checkpoint(str(store.checkpoint(model_type, "encoder")), config=ExportConfig(**options))
    return checkpoint, compile_graph(store.trace(checkpoint), form=form_of(checkpoint), layout="standard")


def built(checkpoint: Checkpoint, compiled: Compiled) -> Any:
    return build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS, whole=compiled.whole)


def test_every_family_is_packed_or_named_here() -> None:
    assert {name for name, family in FAMILIES.items() if not family.packed} == PADDED


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
@pytest.mark.parametrize("options", [{}, {"pooling": "mean", "tokens": True}], ids=["one row", "mean and tokens"])
def test_its_rows_are_pytorchs(model_type: str, options: dict[str, Any], store: ExportStore) -> None:
    pooler = ARCHITECTURES[model_type].has_pooler
    checkpoint, compiled = compiled_of(store, model_type, pooler=pooler, **options)
    result = built(checkpoint, compiled)
    assert result.notes == ()
    assert set(result.engine_models) == (set() if model_type in PADDED else {"cuda"})
    if model_type in PADDED:
        return
    model = result.engine_models["cuda"]
    assert without_cuda_kernel(model) == []
    assert [value.name for value in model.graph.outputs] == [GRAPH_OUTPUTS[name] for name in checkpoint.model.output_names]
    assert all(node.outputs[0].shape is not None for node in model.graph)
    pad_id = checkpoint.tokenizer.pad_token_id
    batch = batch_of([9, 1, 4, 16], vocabulary=100, pad_id=pad_id)
    feed = padded_feed(compiled.whole, batch)
    with torch.no_grad():
        vectors = checkpoint.model(*(torch.from_numpy(feed[name]) for name in checkpoint.inputs))
    found = packed_operators.run(model, packed_feed(model, batch))
    mask = feed["attention_mask"] > 0
    for name, expected in zip(found, vectors, strict=True):
        rows = expected.numpy()[mask] if expected.ndim == 3 else expected.numpy()
        np.testing.assert_allclose(found[name], rows, rtol=0, atol=2e-2, err_msg=name)


@pytest.mark.parametrize("model_type", families(always=("bert",)))
def test_a_layer_is_what_the_fast_kernels_take_and_no_more(model_type: str, store: ExportStore) -> None:
    if model_type in PADDED:
        pytest.skip("padded")
    checkpoint, compiled = compiled_of(store, model_type)
    graph = built(checkpoint, compiled).engine_models["cuda"].graph
    first = next(index for index, node in enumerate(graph) if node.op_type == "PackedMultiHeadAttention")
    nodes = Counter(node.op_type for node in list(graph)[first:])
    layers = checkpoint.config.num_hidden_layers
    # From the first attention on, so without the first query, keys and values; behind it the selections of two values and the last Cast.
    expected = Counter({name: count * layers for name, count in LAYER.items()}) - Counter(MatMul=3, Add=1)
    gelu = "FastGelu" if model_type == "albert" else "BiasGelu"
    assert nodes == expected + Counter({gelu: layers, "Gather": 2, "Cast": 1})
    assert all(len(value.shape or ()) < 3 for node in graph for value in node.outputs)
    for node in graph:
        if node.op_type == "PackedMultiHeadAttention":
            assert node.domain == MICROSOFT_DOMAIN
            assert [value is None for value in node.inputs] == [False, False, False, True, False, False]
            assert node.attributes["scale"].as_float() == 1.0


def test_the_graph_that_it_is_made_of_is_left_as_it_was(store: ExportStore) -> None:
    checkpoint, compiled = compiled_of(store, "bert")
    before = [(node.op_type, [value.name for value in node.outputs]) for node in compiled.whole.graph]
    built(checkpoint, compiled)
    assert [(node.op_type, [value.name for value in node.outputs]) for node in compiled.whole.graph] == before
    assert [value.name for value in compiled.whole.graph.outputs] == ["sentence_embedding"]


def test_without_the_whole_graph_there_is_none(store: ExportStore) -> None:
    checkpoint, compiled = compiled_of(store, "bert")
    assert build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS).engine_models == {}


def test_tokens_that_could_not_be_packed_are_an_error(store: ExportStore, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint, compiled = compiled_of(store, "bert")
    monkeypatch.setattr(TokenPacking, "call", lambda _, model: Rewritten.of(model, 0))
    with pytest.raises(GraphError, match="bert: 0 attention layers were packed for fp16 in 2 layers, expected 2"):
        built(checkpoint, compiled)


@pytest.mark.parametrize(("width", "noted"), [(96, ()), (80, (20,)), (4 * 264, (264,))])
def test_heads_that_flash_attention_does_not_take_are_noted(width: int, noted: tuple[int, ...]) -> None:
    names = ("q", "k", "v")
    values = {name: ir.Value(name=name, shape=ir.Shape(["tokens", width]), type=ir.TensorType(ir.DataType.FLOAT16)) for name in names}
    node = ir.node("PackedMultiHeadAttention", list(values.values()), attributes={"num_heads": 4}, domain=MICROSOFT_DOMAIN)
    node.outputs[0].shape = ir.Shape(["tokens", width])
    model = ir.Model(ir.Graph(list(values.values()), [node.outputs[0]], nodes=[node]), ir_version=10)
    expected = [
        f"slower than usual on GPUs: fp16's attention heads have size {size}; flash attention supports multiples of 8 up to 256"
        for size in noted
    ]
    assert list(packed_fp16._unfused_heads(model)) == expected


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The limits of the range checks that ran: the first is of the padded form, the second of the packed one."""
    limits: list[float] = []
    check = half_range.check_range

    def lower_the_second_time(*arguments: Any, **options: Any) -> float:
        limits.append(half_range.LIMIT)
        if len(limits) == 2:
            monkeypatch.setattr(half_range, "LIMIT", 0.01)
        return check(*arguments, **options)

    monkeypatch.setattr("cls_exporter.variants.fp16.check_range", lower_the_second_time)
    monkeypatch.setattr("cls_exporter.variants.packed_fp16.check_range", lower_the_second_time)
    return limits


def test_what_only_the_folded_products_overflow_is_noted_and_the_padded_form_stays(
    store: ExportStore, monkeypatch: pytest.MonkeyPatch, checked: list[float]
) -> None:
    checkpoint, compiled = compiled_of(store, "bert")
    monkeypatch.setattr("cls_exporter.variants.packed_fp16.bound_when_folded", lambda *_, **__: math.inf)
    result = built(checkpoint, compiled)
    assert len(checked) == 2
    assert result.engine_models == {}
    assert len(result.notes) == 1
    assert result.notes[0].startswith("fp16 has no packed form, so GPUs use the padded one: fp16 is not exported: ")


def test_what_arithmetic_bounds_is_not_tried_again(store: ExportStore, checked: list[float]) -> None:
    checkpoint, compiled = compiled_of(store, "bert")
    assert set(built(checkpoint, compiled).engine_models) == {"cuda"}
    assert len(checked) == 1
