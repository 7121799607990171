"""Every family, as an encoder, a masked-LM model and a classifier: the traced module gives exactly what transformers gives."""

from __future__ import annotations

from pathlib import Path

import checkpoints
import pytest
import torch
import transformers
from checkpoints import SHORTER_BY_TWO, TAKE_TOKEN_TYPES
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.checkpoint.architectures import ARCHITECTURES, architecture_of
from cls_exporter.errors import UnsupportedError
from cls_exporter.graph.families import FAMILIES

TEXTS = ["the cat sat on a mat", "x", "fast dog runs: hello, world 42!", ""]
WITH_POOLER = ("bert", "roberta", "xlm-roberta", "camembert", "mpnet", "albert", "ernie")


def run(checkpoint: Checkpoint, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of the traced module by name."""
    with torch.no_grad():
        rows = checkpoint.model(**{name: batch[name] for name in checkpoint.inputs})
    return dict(zip(checkpoint.model.output_names, rows, strict=True))


def test_the_table_has_the_twelve_families() -> None:
    twelve = "bert roberta xlm-roberta camembert distilbert electra mpnet albert ernie deberta-v2 roformer modernbert"
    assert " ".join(ARCHITECTURES) == " ".join(FAMILIES) == twelve
    assert all(hasattr(transformers, name) for item in ARCHITECTURES.values() for name in (item.encoder_class, item.classifier_class))


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_encoder(model_type: str, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    has_pooler = model_type in WITH_POOLER
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(pooler=has_pooler))

    batch = AutoTokenizer.from_pretrained(folder)(TEXTS, padding=True, return_tensors="pt")
    oracle = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = oracle(**batch)
    outputs = run(checkpoint, batch)
    assert torch.equal(outputs["cls"], expected.last_hidden_state[:, 0])
    assert checkpoint.model.width == checkpoints.HIDDEN
    if has_pooler:
        assert torch.equal(outputs["pooler"], expected.pooler_output)
    assert checkpoint.pooler.state == ("trained" if has_pooler else "absent")

    assert checkpoint.name == "model"
    assert checkpoint.max_length == checkpoints.MAX_POSITIONS - (2 if model_type in SHORTER_BY_TWO else 0)
    assert ("token_type_ids" in checkpoint.inputs) == (model_type in TAKE_TOKEN_TYPES)
    assert not checkpoint.model.training
    assert not any(module.training for module in checkpoint.model.modules())


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_the_longest_text_has_positions_and_one_token_more_has_none(model_type: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model", model_type)))
    ids = torch.full((1, checkpoint.max_length), checkpoints.special_ids(model_type)["sep"])
    assert torch.isfinite(run(checkpoint, as_batch(ids))["cls"]).all()
    if model_type in ("deberta-v2", "modernbert"):
        return  # relative positions: the limit is the configuration's, the model would take more
    longer = torch.full((1, checkpoint.max_length + 1), checkpoints.special_ids(model_type)["sep"])
    with pytest.raises((IndexError, RuntimeError)):
        run(checkpoint, as_batch(longer))


def as_batch(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_padding_changes_nothing(model_type: str, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(checkpoints.make_checkpoint(tmp_path / "model", model_type)))
    batch = dict(checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt"))
    alone = dict(checkpoint.tokenizer(TEXTS[1], return_tensors="pt"))
    assert torch.allclose(run(checkpoint, batch)["cls"][1], run(checkpoint, alone)["cls"][0], atol=2e-6)


@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_masked_lm_checkpoint(model_type: str, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type, kind="masked_lm")
    checkpoint = load_checkpoint(str(folder))
    batch = checkpoint.tokenizer(TEXTS, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()(**{k: batch[k] for k in checkpoint.inputs})
    assert torch.equal(run(checkpoint, batch)["cls"], expected.last_hidden_state[:, 0])
    assert checkpoint.pooler.state == "absent"
    assert any("stored under the prefix" in note for note in checkpoint.notes)
    assert any("parts of a training objective" in note for note in checkpoint.notes)


@pytest.mark.parametrize("labels", [1, 2, 5])
@pytest.mark.parametrize("model_type", checkpoints.all_families())
def test_classifier(model_type: str, labels: int, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type, kind="classifier", labels=labels)
    checkpoint = load_checkpoint(str(folder), config=ExportConfig(logits=True))
    pairs = [(text, "a second text") for text in TEXTS]
    batch = AutoTokenizer.from_pretrained(folder)(pairs, padding=True, return_tensors="pt")
    oracle = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = oracle(**batch).logits
    assert checkpoint.model.output_names == ("cls", "logits")
    assert torch.equal(run(checkpoint, batch)["logits"], expected)
    assert checkpoint.labels == tuple(f"LABEL_{index}" for index in range(labels))
    assert any("ForSequenceClassification" in note for note in checkpoint.notes)


@pytest.mark.parametrize("model_type", [name for name in FAMILIES if name not in WITH_POOLER])
def test_a_family_without_pooler_refuses_one_by_name(model_type: str, tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", model_type)
    with pytest.raises(UnsupportedError, match=f"--pooler: {model_type} models have no pooler"):
        load_checkpoint(str(folder), config=ExportConfig(pooler=True))


def test_another_architecture_is_refused_with_the_list() -> None:
    with pytest.raises(UnsupportedError, match=r"'gpt2' model; supported architectures are bert, roberta, .*modernbert"):
        architecture_of({"model_type": "gpt2"}, where="openai-community/gpt2")
    with pytest.raises(UnsupportedError, match='no "model_type"'):
        architecture_of({}, where="somewhere")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"is_decoder": True}, "is a decoder"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
        ({"quantization_config": {"bits": 4}}, "quantized weights"),
    ],
)
def test_what_a_family_may_not_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        architecture_of({"model_type": "bert", **changes}, where="somewhere")


@pytest.mark.parametrize(
    ("model_type", "value"),
    [
        ("modernbert", "sans_pos"),
        ("distilbert", "learned"),
        ("mpnet", "relative"),
        ("deberta-v2", "rotary"),
        ("roformer", "rotary"),
        ("bert", None),
    ],
)
def test_a_setting_that_the_familys_models_never_read_is_not_looked_at(model_type: str, value: str | None) -> None:
    stored = {"model_type": model_type, "position_embedding_type": value}
    assert architecture_of(stored, where="somewhere").model_type == model_type
    if value is not None:
        with pytest.raises(UnsupportedError, match="position_embedding_type"):
            architecture_of({**stored, "auto_map": {"AutoModel": "their.Model"}}, where="code of its own may read it")


def test_loading_keeps_the_random_state(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "bert", kind="classifier")
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_checkpoint(str(folder), config=ExportConfig(logits=True))
    assert torch.equal(torch.rand(3), expected)


def test_roformer_positions_may_be_missing(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "model", "roformer", trained=False)
    whole = load_checkpoint(str(folder))
    tensors = checkpoints.read_weights_of(folder)
    del tensors["encoder.embed_positions.weight"]
    checkpoints.write_weights_of(folder, tensors)
    without = load_checkpoint(str(folder))
    batch = whole.tokenizer(TEXTS, padding=True, return_tensors="pt")
    assert torch.equal(run(whole, batch)["cls"], run(without, batch)["cls"])
    assert any("computed by its formula" in note for note in without.notes)


def test_modernbert_classifier_that_pools_by_mean_is_refused(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "m", "modernbert", kind="classifier", changes={"classifier_pooling": "mean"})
    with pytest.raises(UnsupportedError, match="reads the mean of all tokens"):
        load_checkpoint(str(folder), config=ExportConfig(logits=True))
