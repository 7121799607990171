"""What a CrossEncoder applies to logits: the same class as sentence-transformers takes from the folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import checkpoints
import pytest
from checkpoints import add_sentence_modules, edit_json

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.errors import CheckpointError, UnsupportedError

library = pytest.importorskip("sentence_transformers")

LOGITS = ExportConfig(logits=True)
TANH, RELU, IDENTITY = "torch.nn.modules.activation.Tanh", "torch.nn.modules.activation.ReLU", "torch.nn.modules.linear.Identity"
OLD, ROOT = "sbert_ce_default_activation_function", "config_sentence_transformers.json"
# config.json's entries, and those of a CrossEncoder's own file; None for a folder without modules.
NAMED: dict[str, tuple[Mapping[str, Any], Mapping[str, Any] | None]] = {
    "nowhere": ({}, None),
    "the oldest place": ({OLD: TANH}, None),
    "null in the oldest place": ({OLD: None}, None),
    "config.json": ({"sentence_transformers": {"activation_fn": RELU}}, None),
    "config.json before the oldest place": ({"sentence_transformers": {"activation_fn": IDENTITY}, OLD: TANH}, None),
    "null in config.json before the oldest place": ({"sentence_transformers": {"activation_fn": None}, OLD: TANH}, None),
    "another entry of config.json": ({"sentence_transformers": {"version": "4.0"}, OLD: TANH}, None),
    "a short name": ({OLD: "torch.nn.GELU"}, None),
    "softmax": ({OLD: "torch.nn.Softmax"}, None),
    "the newest place": ({}, {"model_type": "CrossEncoder", "activation_fn": TANH}),
    "the newest place first": ({"sentence_transformers": {"activation_fn": RELU}}, {"model_type": "CrossEncoder", "activation_fn": TANH}),
    "null in the newest place": ({OLD: RELU}, {"model_type": "CrossEncoder", "activation_fn": None}),
    "the newest place of another model": ({}, {"activation_fn": TANH}),
}


@pytest.fixture(scope="module", params=[1, 3])
def classifier(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With as many labels."""
    return checkpoints.make_checkpoint(tmp_path_factory.mktemp("classifier") / "model", kind="classifier", labels=request.param)


def with_entries(classifier: Path, folder: Path, config: Mapping[str, Any], root: Mapping[str, Any] | None) -> Path:
    shutil.copytree(classifier, folder)
    edit_json(folder / "config.json", config)
    if root is not None:
        add_sentence_modules(folder, pooling=None)
        edit_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
        edit_json(folder / ROOT, root)
    return folder


@pytest.mark.parametrize("place", NAMED)
def test_it_is_the_one_that_sentence_transformers_takes(classifier: Path, tmp_path: Path, place: str) -> None:
    folder = with_entries(classifier, tmp_path / "model", *NAMED[place])
    checkpoint = load_checkpoint(str(folder), config=LOGITS)
    expected = type(library.CrossEncoder(str(folder), device="cpu").activation_fn).__name__.lower()
    assert checkpoint.logits_activation == expected
    note = f"sentence-transformers applies {expected} to the logits; the graph gives them without it"
    assert (note in checkpoint.notes) == (expected != "identity")


def test_without_logits_there_is_none(classifier: Path) -> None:
    assert load_checkpoint(str(classifier)).logits_activation is None


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        (
            {OLD: "torch.nn.Softplus"},
            UnsupportedError,
            "config.json applies 'torch.nn.Softplus' to the logits, .*supported are Identity, Sigmoid",
        ),
        ({OLD: "own.module.Sigmoid"}, UnsupportedError, "applies 'own.module.Sigmoid' to the logits"),
        ({OLD: "Sigmoid"}, UnsupportedError, "applies 'Sigmoid' to the logits"),
        ({OLD: ["torch.nn.Tanh"]}, CheckpointError, r"has the activation \['torch.nn.Tanh'\]; expected the name of a class"),
        ({"sentence_transformers": [TANH]}, CheckpointError, "has sentence_transformers .*; expected an object"),
    ],
)
def test_what_no_manifest_can_name(
    classifier: Path, tmp_path: Path, config: Mapping[str, Any], error: type[Exception], message: str
) -> None:
    folder = with_entries(classifier, tmp_path / "model", config, None)
    with pytest.raises(error, match=message):
        load_checkpoint(str(folder), config=LOGITS)
    assert load_checkpoint(str(folder)).logits_activation is None
