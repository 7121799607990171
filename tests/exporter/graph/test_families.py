"""The twelve families, each as far as it goes: CLS row, pooler, logits, at parity, with a last layer that is really pruned.

The export itself holds every output to PyTorch (its gate); here transformers' own classes are the oracle once more, on batches that the
gate does not try: padding on either side, pairs, token types. One export a family runs always, the others with the slow tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cls_exporter import ExportConfig, ExportReport, export
from cls_exporter.checkpoint.architectures import ARCHITECTURES
from cls_exporter.config import Layout
from cls_exporter.graph.families import FAMILIES
from cls_runtime import Encoder

REPORT_LENGTH = 128  # of `ExportReport.multiply_adds`
LABELS = 3
PAIRS = [("the cat sat", "on a mat"), ("x", "fast dog runs: hello, world 42!"), ("", "vector of text"), ("model " * 20, "the")]
TEXTS = ["the cat sat on a mat", "x", "fast dog runs: hello, world 42!", "", "model " * 90]
TAKE_TOKEN_TYPES = ("bert", "electra", "ernie", "roformer", "albert")
SHORTER_BY_TWO = ("roberta", "xlm-roberta", "camembert", "mpnet")
# The kinds of graph that differ in their passes; the others are bert's graph with other weights.
ALWAYS = ("bert", "deberta-v2", "modernbert")


def families(*, always: tuple[str, ...] = ALWAYS) -> list[Any]:
    """Every family as a parameter; those that are not in `always` are slow."""
    return [name if name in always else pytest.param(name, marks=pytest.mark.slow) for name in FAMILIES]


@dataclass(frozen=True)
class Exported:
    """A checkpoint and its bundle."""

    checkpoint: Path
    bundle: Path
    report: ExportReport

    def graph(self) -> ir.Model:
        return ir.load(self.bundle / "onnx" / "model.onnx")


Exporter = Callable[[str, str], Exported]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exporter:
    """(family, `encoder` or `classifier`) -> its bundle with every output that it has, made once."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("families")
    made: dict[tuple[str, str], Exported] = {}

    def make(model_type: str, kind: str) -> Exported:
        if (model_type, kind) not in made:
            source, bundle = folder / f"{model_type}-{kind}", folder / f"{model_type}-{kind}-bundle"
            architecture, classifier = ARCHITECTURES[model_type], kind == "classifier"
            checkpoints.make_checkpoint(source, model_type, kind="classifier" if classifier else "encoder", labels=LABELS)
            has_pooler = architecture.has_pooler and (not classifier or architecture.head == "pooled")
            report = export(source, bundle, config=ExportConfig(pooler=has_pooler, logits=classifier))
            made[model_type, kind] = Exported(source, bundle, report)
        return made[model_type, kind]

    return make


def reference(checkpoint: Path, batch: dict[str, torch.Tensor], *, classifier: bool = False) -> dict[str, np.ndarray]:
    """transformers' own outputs of a batch."""
    kind = AutoModelForSequenceClassification if classifier else AutoModel
    model = kind.from_pretrained(checkpoint, attn_implementation="eager").eval()
    with torch.inference_mode():
        found = model(**batch)
    if classifier:
        return {"logits": found.logits.numpy()}
    pooled = getattr(found, "pooler_output", None)
    return {"sentence_embedding": found.last_hidden_state[:, 0].numpy(), **({} if pooled is None else {"pooler_output": pooled.numpy()})}


def run_graph(bundle: Path, batch: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    session = onnxruntime.InferenceSession(bundle / "onnx" / "model.onnx", providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    feed = {item.name: batch[item.name].numpy() for item in session.get_inputs()}
    return dict(zip(names, session.run(names, feed), strict=True))


def assert_close(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Largest difference measured over the twelve families: 1.7e-6."""
    for name, array in expected.items():
        np.testing.assert_allclose(found[name], array, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("model_type", families())
def test_parity_and_signature(model_type: str, exported: Exporter) -> None:
    item = exported(model_type, "encoder")
    manifest = item.report.manifest
    outputs = ["last_hidden_state", "sentence_embedding", *(["pooler_output"] if ARCHITECTURES[model_type].has_pooler else [])]
    assert [output.name for output in manifest.outputs] == outputs
    assert manifest.variants["fp32"].parity["cls"].max_abs <= 5e-5
    assert manifest.architecture == model_type
    assert manifest.num_layers == (3 if model_type == "electra" else 2)
    assert manifest.max_length == checkpoints.MAX_POSITIONS - (2 if model_type in SHORTER_BY_TWO else 0)
    types = ["token_type_ids"] if model_type in TAKE_TOKEN_TYPES else []
    graph = onnx.load(item.bundle / "onnx" / "model.onnx").graph
    assert [value.name for value in graph.input] == ["input_ids", "attention_mask", *types] == list(manifest.inputs)


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("model_type", families())
def test_batches_padded_on_either_side(model_type: str, side: str, exported: Exporter) -> None:
    """Row 0 of a batch that is padded on the left is [PAD]'s: the graph gives what transformers gives for that row."""
    item = exported(model_type, "encoder")
    tokenizer = AutoTokenizer.from_pretrained(item.checkpoint, padding_side=side)
    batch = tokenizer(TEXTS, padding=True, truncation=True, max_length=item.report.manifest.max_length, return_tensors="pt")
    found, expected = run_graph(item.bundle, batch), reference(item.checkpoint, batch)
    assert_close(found, expected)
    np.testing.assert_array_equal(found["last_hidden_state"][:, 0], found["sentence_embedding"])


@pytest.mark.parametrize("model_type", families(always=("bert", "modernbert")))
def test_a_tokenizer_that_pads_on_the_left_serves_the_same_vectors(model_type: str, tmp_path: Path, exported: Exporter) -> None:
    """The runtime pads on the right whatever the tokenizer's files say, so row 0 is the CLS token's."""
    source = checkpoints.make_checkpoint(tmp_path / "left", model_type)
    checkpoints.edit_json(source / "tokenizer_config.json", {"padding_side": "left"})
    export(source, tmp_path / "bundle")
    right = exported(model_type, "encoder")
    with Encoder.load(tmp_path / "bundle", on_overflow="truncate") as left, Encoder.load(right.bundle, on_overflow="truncate") as usual:
        np.testing.assert_allclose(left.encode(TEXTS), usual.encode(TEXTS), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", families(always=("bert",)))
def test_logits_of_texts_and_pairs(model_type: str, exported: Exporter) -> None:
    item = exported(model_type, "classifier")
    assert [(output.name, output.width) for output in item.report.manifest.outputs][-1] == ("logits", LABELS)
    assert len(item.report.manifest.labels) == LABELS
    tokenizer = AutoTokenizer.from_pretrained(item.checkpoint)
    length = item.report.manifest.max_length
    with Encoder.load(item.bundle, on_overflow="truncate") as encoder:
        for texts in (TEXTS, PAIRS):
            batch = tokenizer(texts, padding=True, truncation=True, max_length=length, return_tensors="pt")
            expected = reference(item.checkpoint, batch, classifier=True)
            assert_close(run_graph(item.bundle, batch), expected)
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


@pytest.mark.parametrize("model_type", families())
def test_the_last_layer_is_pruned(model_type: str, exported: Exporter) -> None:
    """What the passes save is what the architecture says can be saved, to within 3% of a layer."""
    report, family = exported(model_type, "encoder").report, FAMILIES[model_type]
    work = work_of(checkpoints.small_config(model_type))
    saved = report.multiply_adds["full"] - report.multiply_adds["exported"]
    pruned = work.pruned_layer(reassociated=family.reassociated_products)
    feed_forward = work.hidden * work.inner * (REPORT_LENGTH - 1) if model_type == "modernbert" else 0  # its feed-forward is gated
    possible = work.full_layer + feed_forward - pruned
    if model_type == "deberta-v2":
        possible = deberta_saving(work)
    assert abs(saved - possible) <= 0.03 * work.full_layer, (saved, possible)
    assert report.rewrites["SingleQueryAttention"] == family.reassociated_products


def deberta_saving(work: Work) -> int:
    """Keys and values stay, and the keys' product with the relative positions; the query's product with them is for one row."""
    positions = 2 * checkpoints.small_config("deberta-v2").position_buckets
    return work.full_layer - work.pruned_layer(reassociated=0) + (work.length - 1) * work.hidden * positions


@pytest.mark.parametrize("model_type", families())
def test_every_layer_but_the_last_is_whole(model_type: str, exported: Exporter) -> None:
    graph = exported(model_type, "encoder").graph().graph
    rows = [str(node.outputs[0].shape[-2]) for node in graph if node.op_type == "Softmax" and node.outputs[0].shape is not None]
    layers = 3 if model_type == "electra" else 2
    assert sorted(rows) == sorted(["1", *["sequence_length"] * (layers - 1)])


@pytest.mark.parametrize("layout", ["native", "broadcast"])
def test_every_layout_gives_the_same_row(layout: Layout, tmp_path: Path, exported: Exporter) -> None:
    standard = exported("bert", "encoder")
    export(standard.checkpoint, tmp_path / "bundle", config=ExportConfig(layout=layout))
    batch = AutoTokenizer.from_pretrained(standard.checkpoint)(["the cat", "a dog runs fast"], padding=True, return_tensors="pt")
    found, expected = run_graph(tmp_path / "bundle", batch), run_graph(standard.bundle, batch)
    np.testing.assert_allclose(found["sentence_embedding"], expected["sentence_embedding"], rtol=0, atol=1e-6)
    if layout == "broadcast":
        assert found["last_hidden_state"].shape == (*batch["input_ids"].shape, checkpoints.HIDDEN)
        np.testing.assert_allclose(found["last_hidden_state"].mean(1), found["last_hidden_state"][:, 0], rtol=0, atol=1e-6)
