"""The commands one after the other, on a small random checkpoint: what one writes, the next reads."""

import json

import checkpoints
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoTokenizer

from cls_exporter import command as export
from cls_runtime import Encoder
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.commands import doctor, embed, verify

TEXTS = ["the cat sat on a mat", "", "x", "fast dog runs: hello, world 42!"]


@pytest.mark.slow
def test_export_verify_embed_doctor(tmp_path, monkeypatch, capsys):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    folder = checkpoints.make_checkpoint(tmp_path / "checkpoints" / "tiny-bert")
    assert export.main([str(folder), "--pooler", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["path"] == "models/tiny-bert"
    bundle = report["path"]

    assert verify.main([bundle, "--json"]) == 0
    verified = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in verified["checks"] if check["name"].startswith("golden")] == ["golden cls", "golden pooler"]
    assert verified["fingerprint"] == report["manifest"]["fingerprint"]

    (tmp_path / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for output in ("cls", "pooler"):
        assert embed.main([bundle, "texts.txt", "-o", f"{output}.npy", "--output", output]) == 0
        rows = np.load(f"{output}.npy")
        for row, text in zip(rows, TEXTS, strict=True):
            with torch.no_grad():
                outputs = model(**tokenizer(text, return_tensors="pt"))
            expected = outputs.last_hidden_state[0, 0] if output == "cls" else outputs.pooler_output[0]
            np.testing.assert_allclose(row, expected.numpy(), atol=5e-5)

    assert doctor.main([bundle]) == 0
    capsys.readouterr()
    assert export.main([str(folder), "--json"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert "force" in captured.err


@pytest.mark.slow
def test_the_real_models_own_vectors(minilm, minilm_mean_bundle):
    """As sentence-transformers gives them, of texts up to the limit and over it."""
    library = pytest.importorskip("sentence_transformers")
    texts = [*TEXTS, "A question?", "word " * 200, "many words " * 300]
    expected = library.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    with Encoder.load(minilm_mean_bundle, variant="fp32", on_overflow="truncate") as encoder:
        assert encoder.manifest.pooling == "mean"
        rows = encoder.encode(texts)
    np.testing.assert_allclose(rows, expected, atol=5e-5)


@pytest.mark.slow
def test_the_real_models_own_vectors_in_int8(minilm, minilm_mean_int8_bundle):
    """Near sentence-transformers' on sentences that no calibration and no choice of the recipe has seen."""
    library = pytest.importorskip("sentence_transformers")
    texts = docstring_sentences(400)
    expected = library.SentenceTransformer(str(minilm), device="cpu").encode(texts)
    with Encoder.load(minilm_mean_int8_bundle, variant="int8") as encoder:
        rows = encoder.encode(texts)
    assert shortfalls(parity_figures(expected, rows), thresholds_for("int8", "sentence")) == []
    half = len(texts) // 2
    pairs = [np.einsum("nw,nw->n", vectors[:half], vectors[half:]) for vectors in (expected, rows)]
    assert np.corrcoef([np.argsort(np.argsort(cosines)) for cosines in pairs])[0, 1] > 0.997
