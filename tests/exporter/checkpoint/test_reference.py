"""`cls-verify --against`: its vectors are those that transformers gives for the same text."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from cls_exporter import ExportConfig
from cls_exporter.checkpoint import load_checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors, reference_vectors
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.errors import ClsError
from cls_runtime.verifying.live_model import REFERENCE_GROUP

TEXTS = ["the cat sat on a mat", "x", "", "fast dog runs: hello, world 42! " * 30, ("a pair", "of texts")]


def test_cls_and_pooler_are_those_of_transformers(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = reference_vectors(str(folder), TEXTS, outputs=["cls", "pooler"], max_length=20)
    assert list(vectors) == ["cls", "pooler"]
    for row, text in enumerate(TEXTS):
        parts = (text,) if isinstance(text, str) else text
        with torch.no_grad():
            expected = model(**tokenizer(*parts, truncation=True, max_length=20, return_tensors="pt"))
        np.testing.assert_allclose(vectors["cls"][row], expected.last_hidden_state[0, 0].numpy(), atol=1e-6)
        np.testing.assert_allclose(vectors["pooler"][row], expected.pooler_output[0].numpy(), atol=1e-6)


def test_tokens_are_those_of_transformers(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokens = checkpoint_token_ids(load_checkpoint(str(folder), config=ExportConfig(max_length=20)), TEXTS)
    expected = [tokenizer(*((text,) if isinstance(text, str) else text), truncation=True, max_length=20).input_ids for text in TEXTS]
    assert tokens == tuple(map(tuple, expected))
    assert max(map(len, tokens)) == 20


def test_logits_are_those_of_transformers(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert", kind="classifier", labels=3)
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    vectors = reference_vectors(str(folder), TEXTS[:2], outputs=["cls", "logits"], max_length=64)
    for row, text in enumerate(TEXTS[:2]):
        with torch.no_grad():
            expected = model(**tokenizer(text, return_tensors="pt")).logits[0]
        np.testing.assert_allclose(vectors["logits"][row], expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("trained", [None, "pooling_mode_cls_token", "pooling_mode_mean_tokens", "pooling_mode_max_tokens"])
def test_what_the_manifest_says_counts_and_not_what_was_trained(tmp_path: Path, trained: str | None) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    if trained is not None:
        checkpoints.add_sentence_modules(folder, pooling={trained: True})
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    mean = reference_vectors(str(folder), TEXTS, outputs=["sentence", "tokens", "pooler"], max_length=20, pooling="mean")
    row = reference_vectors(str(folder), TEXTS, outputs=["cls", "sentence", "tokens"], max_length=20, pooling="cls")
    assert (list(mean), list(row)) == (["sentence", "tokens", "pooler"], ["cls", "sentence", "tokens"])
    np.testing.assert_array_equal(row["cls"], row["sentence"])
    np.testing.assert_array_equal(row["tokens"], mean["tokens"])
    sampled = []
    for place, text in enumerate(TEXTS):
        parts = (text,) if isinstance(text, str) else text
        with torch.no_grad():
            hidden = model(**tokenizer(*parts, truncation=True, max_length=20, return_tensors="pt")).last_hidden_state[0].numpy()
        np.testing.assert_allclose(mean["sentence"][place], hidden.mean(0), atol=1e-6)
        np.testing.assert_allclose(row["cls"][place], hidden[0], atol=1e-6)
        sampled.append(hidden[sampled_positions(len(hidden))])
    np.testing.assert_allclose(mean["tokens"], np.concatenate(sampled), atol=1e-6)


def test_a_prompt_is_read_by_the_model_and_counted_by_its_own_tokens(tmp_path: Path) -> None:
    """What a mask of 2 leaves out, of texts and pairs; a prompt that is longer than the model takes leaves the last token alone."""
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    checkpoints.add_sentence_modules(folder, pooling={"pooling_mode_mean_tokens": True, "include_prompt": False})
    checkpoint, model = load_checkpoint(str(folder), config=ExportConfig(max_length=20)), AutoModel.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    for prompt, kept in (("the cat ", 3), ("the cat [SEP]", 4), ("", 0), ("cat " * 40, 19)):
        vectors = checkpoint_vectors(checkpoint, TEXTS, prompt=prompt)["sentence"]
        for place, text in enumerate(TEXTS):
            first, *rest = (text,) if isinstance(text, str) else text
            with torch.no_grad():
                batch = tokenizer(prompt + first, *rest, truncation="longest_first", max_length=20, return_tensors="pt")
                hidden = model(**batch).last_hidden_state[0].numpy()
            np.testing.assert_allclose(vectors[place], hidden[kept:].mean(0), atol=1e-6)
    ids = checkpoint_token_ids(checkpoint, ["on a mat"], prompt="the cat ")
    assert ids == checkpoint_token_ids(checkpoint, ["the cat on a mat"])


def test_a_mean_pooled_model_is_not_refused(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    checkpoints.add_sentence_modules(folder, pooling={"pooling_mode_mean_tokens": True, "word_embedding_dimension": checkpoints.HIDDEN})
    assert reference_vectors(str(folder), ["a"], outputs=["cls"], max_length=64)["cls"].shape == (1, checkpoints.HIDDEN)


def test_a_model_that_takes_less_is_an_error(tmp_path: Path) -> None:
    folder = checkpoints.make_checkpoint(tmp_path / "bert")
    with pytest.raises(ClsError, match="65"):
        reference_vectors(str(folder), ["a"], outputs=["cls"], max_length=65)


def test_the_entry_point_leads_here() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8")
    section = re.search(rf'\[project\.entry-points\."{re.escape(REFERENCE_GROUP)}"\]\n(\w+) = "([^"]+)"', project)
    assert section, "cls-verify --against finds PyTorch by this group"
    entry = metadata.EntryPoint(name=section.group(1), value=section.group(2), group=REFERENCE_GROUP)
    assert entry.load() is reference_vectors
