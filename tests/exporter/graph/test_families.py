"""The twelve families, each as far as it goes: CLS row, pooler, logits, at parity, with a last layer that is really pruned.

The export itself holds every output to PyTorch (its gate); here transformers' own classes are the oracle once more, on batches that the
gate does not try: padding on either side, pairs, token types. The kinds of graph that differ in their passes run always, the others, which
are bert's graph with other weights, with the slow tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import checkpoints
import exports
import numpy as np
import onnx
import pytest
import torch
from checkpoints import SHORTER_BY_TWO, TAKE_TOKEN_TYPES, families
from exports import LABELS, Exported
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cls_exporter import export
from cls_exporter.checkpoint.architectures import ARCHITECTURES
from cls_exporter.config import Layout
from cls_runtime import Encoder

REPORT_LENGTH = 128  # of `ExportReport.multiply_adds`
PAIRS = [("the cat sat", "on a mat"), ("x", "fast dog runs: hello, world 42!"), ("", "vector of text"), ("model " * 20, "the")]
TEXTS = ["the cat sat on a mat", "x", "fast dog runs: hello, world 42!", "", "model " * 90]
LAYERS = {"electra": 3, "modernbert": 3}  # of the others' checkpoints: 2
KEPT_PRODUCTS = {"deberta-v2": 2, "roformer": 1, "modernbert": 1}  # keys that are rotated, keys and values that meet relative positions
ALWAYS = ("bert", "deberta-v2", "modernbert")

Exporter = Callable[[str, exports.FamilyKind], Exported]


def reference(checkpoint: Path, batch: dict[str, torch.Tensor], *, classifier: bool = False) -> dict[str, np.ndarray]:
    """transformers' own outputs of a batch."""
    kind = AutoModelForSequenceClassification if classifier else AutoModel
    model = kind.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.inference_mode():
        outputs = model(**batch)
    if classifier:
        return {"logits": outputs.logits.numpy()}
    pooled = getattr(outputs, "pooler_output", None)
    return {"sentence_embedding": outputs.last_hidden_state[:, 0].numpy(), **({} if pooled is None else {"pooler_output": pooled.numpy()})}


def run_graph(item: Exported, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    session = item.session()
    names = [output.name for output in session.get_outputs()]
    feed = {value.name: batch[value.name].numpy() for value in session.get_inputs()}
    return dict(zip(names, session.run(names, feed), strict=True))


def assert_close(outputs: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Largest difference measured over the twelve families: 1.7e-6."""
    for name, array in expected.items():
        np.testing.assert_allclose(outputs[name], array, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_parity_and_signature(model_type: str, exported_family: Exporter) -> None:
    item = exported_family(model_type, "encoder")
    manifest = item.report.manifest
    outputs = ["last_hidden_state", "sentence_embedding", *(["pooler_output"] if ARCHITECTURES[model_type].has_pooler else [])]
    assert [output.name for output in manifest.outputs] == outputs
    assert manifest.variants["fp32"].parity["cls"].max_abs <= 5e-5
    assert manifest.architecture == model_type
    assert manifest.num_layers == LAYERS.get(model_type, 2)
    assert manifest.max_length == checkpoints.MAX_POSITIONS - (2 if model_type in SHORTER_BY_TWO else 0)
    types = ["token_type_ids"] if model_type in TAKE_TOKEN_TYPES else []
    graph = onnx.load(item.bundle / "onnx" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", *types] == list(manifest.inputs)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_batches_padded_on_either_side(model_type: str, side: str, exported_family: Exporter) -> None:
    """Row 0 of a batch that is padded on the left is [PAD]'s: the graph gives what transformers gives for that row."""
    item = exported_family(model_type, "encoder")
    tokenizer = AutoTokenizer.from_pretrained(item.checkpoint, padding_side=side)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=item.report.manifest.max_length, return_tensors="pt")
    outputs = run_graph(item, batch)
    assert_close(outputs, reference(item.checkpoint, batch))
    np.testing.assert_array_equal(outputs["last_hidden_state"][:, 0], outputs["sentence_embedding"])


@pytest.mark.parametrize("model_type", families(always=("bert", "modernbert")))
def test_a_tokenizer_that_pads_on_the_left_serves_the_same_vectors(
    model_type: str, tmp_path: Path, exported_family: Exporter, traced_once: None
) -> None:
    """The runtime pads on the right whatever the tokenizer's files say, so row 0 is the CLS token's."""
    source = checkpoints.make_checkpoint(tmp_path / "left", model_type)
    checkpoints.edit_json(source / "tokenizer_config.json", {"padding_side": "left"})
    export(source, tmp_path / "bundle", config=replace(exports.every_output(model_type, "encoder"), precisions=("fp32",)))
    right = exported_family(model_type, "encoder")
    vectors = []
    for bundle in (tmp_path / "bundle", right.bundle):
        with Encoder.load(bundle, variant="fp32", on_overflow="truncate") as encoder:
            vectors.append(encoder.encode(TEXTS))
    np.testing.assert_allclose(*vectors, rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", families(always=("bert",)))
def test_logits_of_texts_and_pairs(model_type: str, exported_family: Exporter) -> None:
    item = exported_family(model_type, "classifier")
    assert [(output.name, output.width) for output in item.report.manifest.outputs][-1] == ("logits", LABELS)
    assert len(item.report.manifest.labels) == LABELS
    assert item.report.manifest.logits_activation == "identity"  # of several labels
    tokenizer = AutoTokenizer.from_pretrained(item.checkpoint)
    length = item.report.manifest.max_length
    with Encoder.load(item.bundle, variant="fp32", on_overflow="truncate") as encoder:
        for texts in (TEXTS, PAIRS):
            batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
            expected = reference(item.checkpoint, batch, classifier=True)
            assert_close(run_graph(item, batch), expected)
            np.testing.assert_allclose(encoder.encode(texts, output="logits"), expected["logits"], rtol=0, atol=1e-5)


# The last layer, in multiply-adds


@dataclass(frozen=True)
class Work:
    """Multiply-adds of one text of S tokens, from the architecture alone (H hidden, F feed-forward, A heads, D = H / A)."""

    layers: int
    hidden: int
    inner: int
    heads: int
    length: int

    @property
    def full_layer(self) -> int:
        """Four projections, scores and context, and the feed-forward, for every row."""
        return self.length * (4 * self.hidden**2 + 2 * self.hidden * self.inner) + 2 * self.length**2 * self.hidden

    def pruned_layer(self, *, reassociated: int) -> int:
        """The query, the output projection and the feed-forward for one row; keys and values for all, or reassociated for one."""
        one_row = 2 * self.hidden**2 + 2 * self.hidden * self.inner
        projected = (2 - reassociated) * (self.length * self.hidden**2 + self.length * self.hidden)
        spared = reassociated * (self.hidden**2 + self.length * self.hidden * self.heads)
        return one_row + projected + spared


def work_of(config: Any) -> Work:
    inner = getattr(config, "intermediate_size", None) or config.hidden_dim
    return Work(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        inner=inner,
        heads=config.num_attention_heads,
        length=REPORT_LENGTH,
    )


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_the_last_layer_is_pruned(model_type: str, exported_family: Exporter) -> None:
    """What the passes save is what the architecture says can be saved, to within 3% of a layer."""
    report = exported_family(model_type, "encoder").report
    work = work_of(checkpoints.small_config(model_type))
    saved = report.multiply_adds["full"] - report.multiply_adds["exported"]
    reassociated = 2 - KEPT_PRODUCTS.get(model_type, 0)
    pruned = work.pruned_layer(reassociated=reassociated)
    feed_forward = work.hidden * work.inner * (REPORT_LENGTH - 1) if model_type == "modernbert" else 0  # its feed-forward is gated
    possible = work.full_layer + feed_forward - pruned
    if model_type == "deberta-v2":
        possible = deberta_saving(work)
    assert abs(saved - possible) <= 0.03 * work.full_layer, (saved, possible)
    assert report.rewrites["SingleQueryAttention"] == reassociated


def deberta_saving(work: Work) -> int:
    """Keys and values stay, and the keys' product with the relative positions; the query's product with them is for one row."""
    positions = 2 * checkpoints.small_config("deberta-v2").position_buckets
    return work.full_layer - work.pruned_layer(reassociated=0) + (work.length - 1) * work.hidden * positions


@pytest.mark.parametrize("model_type", families(always=ALWAYS))
def test_every_layer_but_the_last_is_whole(model_type: str, exported_family: Exporter) -> None:
    graph = exported_family(model_type, "encoder").graph().graph
    rows = [str(node.outputs[0].shape[-2]) for node in graph if node.op_type == "Softmax" and node.outputs[0].shape is not None]
    assert sorted(rows) == sorted(["1", *["sequence_length"] * (LAYERS.get(model_type, 2) - 1)])


@pytest.mark.parametrize("layout", ["native", "broadcast"])
def test_every_layout_gives_the_same_row(layout: Layout, tmp_path: Path, exported_family: Exporter, traced_once: None) -> None:
    standard = exported_family("bert", "encoder")
    config = replace(exports.every_output("bert", "encoder"), precisions=("fp32",), layout=layout)
    other = Exported(standard.checkpoint, tmp_path / "bundle", export(standard.checkpoint, tmp_path / "bundle", config=config))
    batch = AutoTokenizer.from_pretrained(standard.checkpoint)(["the cat", "a dog runs fast"], padding=True, return_tensors="pt")
    outputs, expected = run_graph(other, batch), run_graph(standard, batch)
    np.testing.assert_allclose(outputs["sentence_embedding"], expected["sentence_embedding"], rtol=0, atol=1e-6)
    if layout == "broadcast":
        assert outputs["last_hidden_state"].shape == (*batch["input_ids"].shape, checkpoints.HIDDEN)
        np.testing.assert_allclose(outputs["last_hidden_state"].mean(1), outputs["last_hidden_state"][:, 0], rtol=0, atol=1e-6)
