"""Graphs that need every row of the last layer: the mean of the tokens' rows, all of them as an output, and prompts that are not pooled.

PyTorch is the oracle, through transformers' own classes and sentence-transformers' formula, on padded batches. The kinds of graph that
differ in their passes run always, the others with the slow tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import checkpoints
import graphs
import numpy as np
import onnx_ir as ir
import pytest
import torch
from checkpoints import families
from exports import ExportStore
from torch import Tensor, nn

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.architectures import ARCHITECTURES
from cls_exporter.checkpoint.model import ClsModel, RowModules
from cls_exporter.config import ExportConfig, Layout
from cls_exporter.errors import GraphError
from cls_exporter.graph.families import FAMILIES, form_of
from cls_exporter.graph.multiply_adds import multiply_adds
from cls_exporter.graph.passes.rewriting import Rewritten
from cls_exporter.graph.passes.row_selection import RowSelection
from cls_exporter.graph.pipeline import Compiled, compile_graph
from cls_exporter.variants.cuda_kernels import without_cuda_kernel
from cls_exporter.variants.fp16 import build_fp16
from cls_exporter.variants.fp32 import build_fp32

TEXTS = ["the cat sat on a mat", "x", "fast dog runs: hello, world 42!", "model " * 40]
ALWAYS = ("bert", "deberta-v2", "modernbert")
HALF_TOLERANCE = 2e-2


def batch_of(checkpoint: Checkpoint, *, side: str = "right") -> dict[str, Tensor]:
    batch = checkpoint.tokenizer(
        TEXTS, padding=True, truncation=True, max_length=checkpoint.max_length, return_tensors="pt", padding_side=side
    )
    return {name: batch[name] for name in checkpoint.inputs}


def arrays(batch: Mapping[str, Tensor]) -> dict[str, graphs.Array]:
    return {name: tensor.numpy() for name, tensor in batch.items()}


def last_rows(checkpoint: Checkpoint, batch: Mapping[str, Tensor]) -> Tensor:
    """transformers' last hidden states; the encoder knows masks of 0 and 1 alone."""
    inputs = {**batch, "attention_mask": (batch["attention_mask"] != 0).long()}
    with torch.inference_mode():
        return checkpoint.model.encoder(**inputs)[0]


def mean_of(hidden: Tensor, counted: Tensor) -> graphs.Array:
    """sentence-transformers' formula."""
    weights = counted.unsqueeze(-1).expand(hidden.size()).to(hidden.dtype)
    return (torch.sum(hidden * weights, 1) / torch.clamp(weights.sum(1), min=1e-9)).numpy()


def compiled_of(checkpoint: Checkpoint, store: ExportStore, layout: Layout = "standard") -> Compiled:
    return compile_graph(store.trace(checkpoint), form=form_of(checkpoint), layout=layout)


def loaded(store: ExportStore, model_type: str, **options: Any) -> Checkpoint:
    return load_checkpoint(str(store.checkpoint(model_type, "encoder")), config=ExportConfig(**options))


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_the_mean_of_every_family_is_pytorchs(model_type: str, store: ExportStore) -> None:
    checkpoint = loaded(store, model_type, pooling="mean", pooler=ARCHITECTURES[model_type].has_pooler)
    compiled = compiled_of(checkpoint, store)
    half = build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS)
    assert compiled.notes == half.notes == ()
    assert without_cuda_kernel(half.model) == []
    for side in ("right", "left"):
        batch = batch_of(checkpoint, side=side)
        hidden, kept = last_rows(checkpoint, batch), batch["attention_mask"].numpy() != 0
        expected = mean_of(hidden, batch["attention_mask"])
        for model, tolerance in ((build_fp32(compiled.model).model, 1e-5), (half.model, HALF_TOLERANCE)):
            outputs = graphs.run(model, arrays(batch))
            assert list(outputs)[:2] == ["last_hidden_state", "sentence_embedding"]
            np.testing.assert_allclose(outputs["sentence_embedding"], expected, rtol=0, atol=tolerance)
            np.testing.assert_allclose(outputs["last_hidden_state"][kept], hidden.numpy()[kept], rtol=0, atol=tolerance)
            if checkpoint.model.pooler is not None:
                pooled = checkpoint.model.pooler(hidden[:, 0]).numpy()
                np.testing.assert_allclose(outputs["pooler_output"], pooled, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_every_layer_computes_every_row(model_type: str, store: ExportStore) -> None:
    checkpoint = loaded(store, model_type, pooling="mean", pooler=ARCHITECTURES[model_type].has_pooler)
    traced = store.trace(checkpoint)
    full = multiply_adds(traced, batch_size=2, sequence_length=16)
    compiled = compile_graph(traced, form=form_of(checkpoint), layout="standard")
    rows = [str(node.outputs[0].shape[-2]) for node in compiled.model.graph if node.op_type == "Softmax"]  # type: ignore[index]
    assert rows == ["sequence_length"] * form_of(checkpoint).layers
    assert multiply_adds(compiled.model, batch_size=2, sequence_length=16) == full


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("model_type", families(always=("bert", "modernbert")))
def test_a_prompt_is_read_and_not_pooled(model_type: str, pooling: Any, store: ExportStore) -> None:
    checkpoint = prompted(store, model_type, pooling=pooling)
    compiled = compiled_of(checkpoint, store)
    half = build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS)
    assert without_cuda_kernel(half.model) == []
    batch = batch_of(checkpoint)
    mask = batch["attention_mask"]
    mask[:, :3] *= 2
    mask[1] = (mask[1] != 0).long()  # a text without a prompt
    hidden = last_rows(checkpoint, batch)
    if pooling == "mean":
        expected = mean_of(hidden, (mask == 1).long())
    else:
        expected = torch.stack([rows[int(torch.nonzero(own == 1)[0, 0])] for rows, own in zip(hidden, mask, strict=True)]).numpy()
    for model, tolerance in ((build_fp32(compiled.model).model, 1e-5), (half.model, HALF_TOLERANCE)):
        outputs = graphs.run(model, arrays(batch))
        np.testing.assert_allclose(outputs["sentence_embedding"], expected, rtol=0, atol=tolerance)
        other = graphs.run(model, {**arrays(batch), "attention_mask": (mask != 0).long().numpy()})
        assert np.abs(other["sentence_embedding"] - expected).max() > 0.05  # the mark makes the difference


def prompted(store: ExportStore, model_type: str, *, pooling: Any) -> Checkpoint:
    """A checkpoint whose mask marks prompts, as those with `include_prompt` false are read."""
    plain = loaded(store, model_type, pooling=pooling, layout="native")
    model = ClsModel(
        plain.model.encoder,
        RowModules(),
        hidden=checkpoints.HIDDEN,
        token_type_ids="token_type_ids" in plain.inputs,
        pooling=pooling,
        include_prompt=False,
    )
    return replace(plain, model=model)


def test_tokens_of_a_cls_model_are_output_0_and_its_vector_is_row_0(store: ExportStore) -> None:
    checkpoint = loaded(store, "bert", tokens=True)
    assert checkpoint.model.output_names == ("tokens", "cls")
    batch = batch_of(checkpoint)
    outputs = graphs.run(compiled_of(checkpoint, store).model, arrays(batch))
    assert list(outputs) == ["last_hidden_state", "sentence_embedding"]
    np.testing.assert_allclose(outputs["last_hidden_state"], last_rows(checkpoint, batch).numpy(), rtol=0, atol=1e-5)
    np.testing.assert_array_equal(outputs["last_hidden_state"][:, 0], outputs["sentence_embedding"])


@pytest.mark.parametrize("layout", ["native", "broadcast"])
def test_the_mean_in_the_other_layouts(layout: Layout, store: ExportStore) -> None:
    checkpoint = loaded(store, "bert", pooling="mean", layout=layout)
    assert not checkpoint.token_rows
    batch = batch_of(checkpoint)
    outputs = graphs.run(compiled_of(checkpoint, store, layout).model, arrays(batch))
    expected = mean_of(last_rows(checkpoint, batch), batch["attention_mask"])
    np.testing.assert_allclose(outputs["sentence_embedding"], expected, rtol=0, atol=1e-5)
    assert list(outputs) == ["sentence_embedding"] if layout == "native" else ["last_hidden_state", "sentence_embedding"]
    if layout == "broadcast":
        again = mean_of(torch.from_numpy(outputs["last_hidden_state"]), batch["attention_mask"])
        np.testing.assert_allclose(again, expected, rtol=0, atol=1e-5)


def test_a_row_that_is_all_padding_is_finite_and_touches_no_other(store: ExportStore) -> None:
    checkpoint = loaded(store, "bert", pooling="mean")
    compiled = compiled_of(checkpoint, store)
    batch = batch_of(checkpoint)
    empty = arrays(batch) | {"attention_mask": batch["attention_mask"].numpy() * np.array([[1], [0], [1], [1]])}
    for model in (compiled.model, build_fp16(compiled.model, checkpoint=checkpoint, texts=TEXTS).model):
        whole, other = (graphs.run(model, feed)["sentence_embedding"] for feed in (arrays(batch), empty))
        assert not other[1].any()
        np.testing.assert_array_equal(other[[0, 2, 3]], whole[[0, 2, 3]])


def test_the_mean_is_float32_in_fp16(store: ExportStore) -> None:
    checkpoint = loaded(store, "bert", pooling="mean")
    half = build_fp16(compiled_of(checkpoint, store).model, checkpoint=checkpoint, texts=TEXTS).model
    sums = [node for node in half.graph if node.op_type == "ReduceSum"]
    assert len(sums) == 2
    for node in sums:
        assert node.inputs[0].dtype == node.outputs[0].dtype == ir.DataType.FLOAT  # type: ignore[union-attr]
    outputs = {str(output.name): output for output in half.graph.outputs}
    casts = [node for node in half.graph if node.op_type == "Cast" and node.outputs[0].shape == outputs["last_hidden_state"].shape]
    assert [node.outputs[0].name for node in casts] == ["last_hidden_state"]  # the mean reads the output, not a second copy


def test_a_form_without_a_selected_row() -> None:
    form = FAMILIES["roformer"].form(checkpoints.small_config("roformer", changes={"rotary_value": True}), one_row=False)
    assert (form.one_row, form.whole_layers, form.reassociated_products, form.notes) == (False, 2, 0, ())


def test_a_row_that_is_selected_where_all_are_needed_is_an_error(store: ExportStore) -> None:
    """The count of query rows holds both kinds of graph to what they are."""
    checkpoint = loaded(store, "bert")
    form = FAMILIES["bert"].form(checkpoint.config, one_row=False)
    with pytest.raises(GraphError, match="bert: 1 of 2 attention layers compute one query row, expected 0 of 2"):
        compile_graph(store.trace(checkpoint), form=form, layout="standard")


def test_all_rows_where_one_is_needed_is_an_error(store: ExportStore, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = loaded(store, "bert", pooling="mean")
    form = FAMILIES["bert"].form(checkpoint.config)
    monkeypatch.setattr(RowSelection, "call", lambda _, model: Rewritten.of(model, 0))
    with pytest.raises(GraphError, match="bert: 0 of 2 attention layers compute one query row, expected 1 of 2"):
        compile_graph(store.trace(checkpoint), form=form, layout="standard")


class Rows(nn.Module):
    """An encoder that gives the rows that it was made with."""

    def __init__(self, rows: Tensor) -> None:
        super().__init__()
        self.rows = rows

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor]:
        assert set(attention_mask.unique().tolist()) <= {0, 1}
        return (self.rows,)


@pytest.mark.parametrize(
    ("pooling", "mask", "expected"),
    [
        ("mean", [1, 1, 0], 1.5),
        ("mean", [2, 1, 1], 3.0),
        ("mean", [2, 2, 0], 0.0),
        ("cls", [2, 1, 1], 2.0),
        ("cls", [2, 2, 1], 4.0),
        ("cls", [1, 1, 1], 1.0),
        ("cls", [2, 2, 2], 1.0),  # row 0, as sentence-transformers' argmax gives it
    ],
)
def test_what_a_marked_prompt_leaves(pooling: Any, mask: list[int], expected: float) -> None:
    rows = torch.tensor([[[1.0], [2.0], [4.0]]])
    model = ClsModel(Rows(rows), RowModules(), hidden=1, token_type_ids=False, pooling=pooling, include_prompt=False)
    (vector,) = model(torch.zeros((1, 3), dtype=torch.int64), torch.tensor([mask]))
    assert vector.tolist() == [[expected]]


def test_a_dense_module_follows_the_mean() -> None:
    dense = nn.Sequential(nn.Linear(1, 2), nn.Tanh())
    model = ClsModel(Rows(torch.tensor([[[1.0], [3.0]]])), RowModules(dense=dense), hidden=1, token_type_ids=False, pooling="mean")
    assert (model.width, model.output_names) == (2, ("sentence",))
    (vector,) = model(torch.zeros((1, 2), dtype=torch.int64), torch.ones((1, 2), dtype=torch.int64))
    torch.testing.assert_close(vector, dense(torch.tensor([[2.0]])))
