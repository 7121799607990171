"""A classifier from the checkpoint to the server: scores are those of sentence-transformers' CrossEncoder on the same pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from checkpoints import edit_json
from exports import ExportStore

from cls_exporter import ExportConfig, export, exporting

pytest.importorskip("starlette")
pytest.importorskip("prometheus_client")
library = pytest.importorskip("sentence_transformers")

from served import Served  # noqa: E402  it needs what the lines above look for

QUERY = "the cat sat on the mat"
DOCUMENTS = ["a dog runs fast", "the cat sat on the mat", "", "hello world", "model of text, a vector! " * 12, "?", "hello world"]
TOLERANCE = 1e-6  # of scores in [0, 1]; measured 6e-8
IDENTITY = "torch.nn.modules.linear.Identity"
Opened = Callable[..., tuple[Served, Any]]


@pytest.fixture
def opened(tmp_path: Path, store: ExportStore, monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """`opened(labels=1, settings={...})` -> a server on the exported checkpoint, and the CrossEncoder of its folder."""
    made: list[Served] = []

    def make(*, labels: int, settings: dict[str, Any] | None = None, prompt: str = "") -> tuple[Served, Any]:
        folder = checkpoints.make_checkpoint(tmp_path / "model", kind="classifier", labels=labels)
        edit_json(folder / "config.json", settings or {})
        if prompt:
            checkpoints.add_sentence_modules(folder, pooling=None)
            edit_json(folder / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
            root = {"model_type": "CrossEncoder", "prompts": {"query": prompt}, "default_prompt_name": "query"}
            edit_json(folder / "config_sentence_transformers.json", root)
        monkeypatch.setattr(exporting, "trace", store.trace)
        export(folder, tmp_path / "bundle", config=ExportConfig(logits=True))
        made.append(Served.of(tmp_path / "bundle", model_names=("ranks",)))
        return made[-1], library.CrossEncoder(str(folder), device="cpu")

    yield make
    for server in made:
        server.close()


def predicted(model: Any, pairs: list[tuple[str, str]], **options: Any) -> np.ndarray:
    return np.asarray(model.predict(pairs, show_progress_bar=False, **options), dtype=np.float64)


def test_a_reranker(opened: Opened) -> None:
    server, model = opened(labels=1)
    pairs = [(QUERY, document) for document in DOCUMENTS]
    expected = predicted(model, pairs)
    assert len(set(expected.round(4).tolist())) >= 5
    order = [found["corpus_id"] for found in model.rank(QUERY, DOCUMENTS, show_progress_bar=False)]
    answer = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json
    assert [rank["index"] for rank in answer] == order
    np.testing.assert_allclose([rank["score"] for rank in answer], expected[order], atol=TOLERANCE)
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        results = server.post(path, {"query": QUERY, "documents": DOCUMENTS}).json["results"]
        assert [result["index"] for result in results] == order
        np.testing.assert_allclose([result["relevance_score"] for result in results], expected[order], atol=TOLERANCE)
    raw = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True}).json
    logits = predicted(model, pairs, activation_fn=torch.nn.Identity())
    np.testing.assert_allclose([rank["score"] for rank in raw], logits[order], rtol=1e-4, atol=1e-5)
    batch = server.post("/predict", {"inputs": [[QUERY, document] for document in DOCUMENTS]}).json
    np.testing.assert_allclose([labels[0]["score"] for labels in batch], expected, atol=TOLERANCE)


@pytest.mark.slow
def test_a_reranker_that_names_identity(opened: Opened) -> None:
    """As cross-encoder/ms-marco's do: sentence-transformers gives logits, and so does the server."""
    server, model = opened(labels=1, settings={"sbert_ce_default_activation_function": IDENTITY})
    expected = predicted(model, [(QUERY, document) for document in DOCUMENTS])
    assert expected.min() < 0 or expected.max() > 1
    answer = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json
    np.testing.assert_allclose([rank["score"] for rank in answer], [expected[rank["index"]] for rank in answer], rtol=1e-4, atol=1e-5)


def test_a_rerankers_prompt(opened: Opened) -> None:
    server, model = opened(labels=1, prompt="the dog: ")
    pairs = [(QUERY, document) for document in DOCUMENTS]
    expected = predicted(model, pairs)
    assert np.abs(expected - predicted(model, pairs, prompt="")).max() > 1e-4
    answer = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS}).json
    np.testing.assert_allclose([rank["score"] for rank in answer], [expected[rank["index"]] for rank in answer], atol=TOLERANCE)


@pytest.mark.slow
def test_a_classifier_of_pairs(opened: Opened) -> None:
    labels = {"0": "contradiction", "1": "entailment", "2": "neutral"}
    server, model = opened(labels=3, settings={"id2label": labels, "label2id": {name: int(place) for place, name in labels.items()}})
    pairs = [(QUERY, document) for document in DOCUMENTS]
    expected = predicted(model, pairs, apply_softmax=True)
    for path in ("/predict", "/"):
        answer = server.post(path, {"inputs": [list(pair) for pair in pairs]}).json
        for found, row in zip(answer, expected, strict=True):
            assert [item["label"] for item in found] == [labels[str(place)] for place in np.argsort(-row)]
            np.testing.assert_allclose([item["score"] for item in found], np.sort(row)[::-1], atol=TOLERANCE)
    raw = server.post("/predict", {"inputs": list(pairs[0]), "raw_scores": True}).json
    np.testing.assert_allclose([item["score"] for item in raw], np.sort(predicted(model, pairs[:1])[0])[::-1], rtol=1e-4, atol=1e-5)
    refused = server.post("/rerank", {"query": QUERY, "texts": DOCUMENTS})
    assert refused.status == 424
    with pytest.raises(ValueError, match="num_labels=1"):
        model.rank(QUERY, DOCUMENTS)
