"""Clients of OpenAI, TEI, Cohere and Jina talk to cls-serve unchanged and get what `Encoder` gives. Run by `make interop`.

Each client has a program in its folder here, which asks in every way that it knows, and lines in docs/serving.md, which are run as they
stand.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from client_snippets import Snippet, snippets
from numpy.typing import NDArray
from served import CUT_TO, KEY, KINDS, LABELS, QUERY, SMALL_TEXTS, Served, Servers
from snippets import ROOT

HERE = Path(__file__).parent
MAX_ABS = 5e-6
TOLD_APART = 20 * MAX_ABS
# The servers that each program asks.
PROGRAMS = {
    "chromadb": ("embedding",),
    "cohere": ("prompted", "reranker", "embedding"),
    "haystack": ("embedding", "reranker"),
    "huggingface_hub": KINDS,
    "langchain_openai": ("embedding", "prompted"),
    "litellm": ("embedding", "reranker", "prompted"),
    "llama_index": ("embedding",),
    "openai": ("embedding", "prompted"),
    "openai_js": ("embedding",),
}
# No client asks anybody but its server: no telemetry, no list of prices, no hub.
OFFLINE = {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "HF_HUB_OFFLINE": "1",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
# Variables that would tell a client something else.
SETTINGS = ("CO_", "COHERE_", "HF_", "HUGGING", "OPENAI_", "PYTHON")


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-logits))


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def check_vectors(served: Served, value: Any, *, texts: list[str], **options: Any) -> None:
    got, expected = np.asarray(value, np.float32), served.encoder.encode(texts, **options)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= MAX_ABS, np.abs(got - expected).max(axis=1)


def check_base64(served: Served, value: Any, *, texts: list[str], **options: Any) -> None:
    check_vectors(served, [np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in value], texts=texts, **options)


def check_tokens(served: Served, value: Any, *, texts: list[str]) -> None:
    assert value == sum(len(found.ids) for found in served.encoder.tokens(texts))


def check_similarities(served: Served, value: Any, *, texts: list[str]) -> None:
    expected = served.encoder.similarity(served.encoder.encode([QUERY]), served.encoder.encode(texts))[0]
    assert np.abs(np.asarray(value) - expected).max() <= MAX_ABS


def check_ranking(
    served: Served, value: Any, *, texts: list[str], top_n: int | None = None, activation: Callable[..., NDArray[np.float32]] = sigmoid
) -> None:
    """Pairs of a text's place and its score, the best first."""
    scores = activation(served.encoder.encode([(QUERY, text) for text in texts], output="logits")[:, 0])
    order = np.argsort(-scores, kind="stable")[:top_n]
    assert [place for place, _ in value] == list(order)
    assert np.abs(np.array([score for _, score in value]) - scores[order]).max() <= MAX_ABS


def check_predictions(
    served: Served,
    value: Any,
    *,
    texts: list[str],
    activation: Callable[..., NDArray[np.float32]] | None = None,
    best: int | None = None,
) -> None:
    """Pairs of a label and its score, the best first, of one text."""
    logits = served.encoder.encode(texts, output="logits")[0]
    labels = served.encoder.manifest.labels
    scores = (activation or (sigmoid if len(logits) == 1 else softmax))(logits)
    order = np.argsort(-scores, kind="stable")[:best]
    assert [label for label, _ in value] == [labels[place] for place in order]
    assert np.abs(np.array([score for _, score in value]) - scores[order]).max() <= MAX_ABS


def unchanged(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


CHECKS: dict[str, Callable[..., None]] = {
    "vectors": check_vectors,
    "base64 vectors": check_base64,
    "tokens": check_tokens,
    "similarities": check_similarities,
    "ranking": check_ranking,
    "raw ranking": lambda *record, **options: check_ranking(*record, **options, activation=unchanged),
    "predictions": check_predictions,
    "best predictions": lambda *record, **options: check_predictions(*record, **options, best=2),
    "predictions by none": lambda *record, **options: check_predictions(*record, **options, activation=unchanged),
    "predictions by sigmoid": lambda *record, **options: check_predictions(*record, **options, activation=sigmoid),
    "predictions by softmax": lambda *record, **options: check_predictions(*record, **options, activation=softmax),
}


def run(environment: str, program: Path) -> None:
    """Runs a program in a client's environment, in the program's folder."""
    home = ROOT / ".venv-interop" / environment
    if program.suffix == ".mjs":
        (program.parent / "node_modules").symlink_to(home / "node_modules")
        command = shutil.which("node") or "node"
    else:
        command = str(home / "bin" / "python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    done = subprocess.run([command, program.name], cwd=program.parent, env={**kept, **OFFLINE}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("environment", [pytest.param(name, id=f"{name}-program") for name in PROGRAMS])
def test_every_answer_is_the_encoders(environment: str, servers: Servers, tmp_path: Path) -> None:
    (source,) = (HERE / environment).glob("program.*")
    program = tmp_path / source.name
    shutil.copy(source, program)
    shutil.copy(HERE / "client_results.py", tmp_path)
    given = {kind: servers[kind].given() for kind in PROGRAMS[environment]}
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    run(environment, program)
    records = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {record["server"] for record in records} == set(PROGRAMS[environment])
    failed = {}
    for record in records:
        served, options = servers[record["server"]], record["options"]
        try:
            CHECKS[record["kind"]](served, record["value"], **{"texts": served.texts, **options})
        except AssertionError as error:
            failed[f"{record['server']}: {record['kind']}, {record['how']}"] = str(error)
    assert not failed


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.name)
def test_the_pages_lines_give_the_encoders_results(snippet: Snippet, servers: Servers, tmp_path: Path) -> None:
    served = servers[snippet.server]
    texts = served.texts
    if snippet.result == "predictions":
        texts = texts[:1]
    elif snippet.environment == "llama_index":
        texts = [text for text in texts if text.strip() == text and "\n" not in text]
    program = tmp_path / f"program.{'mjs' if snippet.language == 'js' else 'py'}"
    program.write_text(snippet.program(url=served.url, key=KEY, texts=texts, query=QUERY), encoding="utf-8")
    run(snippet.environment, program)
    CHECKS[snippet.result](served, json.loads((tmp_path / "result.json").read_text(encoding="utf-8")), texts=texts)


def test_the_expected_results_tell_texts_apart(servers: Servers) -> None:
    """Or the tests above could not fail: neither vectors, prompts and sizes nor scores are near one another."""
    embedding, prompted = servers["embedding"], servers["prompted"]
    for served, options in ((embedding, {}), (prompted, {"dimensions": CUT_TO})):
        rows = served.encoder.encode(list(dict.fromkeys(served.texts)), **options)
        distances = np.abs(rows[:, None] - rows[None]).max(axis=2)
        cut_alike = len(rows) - len({tuple(found.ids) for found in served.encoder.tokens(list(dict.fromkeys(served.texts)))})
        assert (distances < TOLD_APART).sum() <= len(rows) + 2 * cut_alike
    prompts = ({"prompt_name": "query"}, {"prompt_name": "document"}, {"prompt": ""})
    forms = [prompted.encoder.encode(SMALL_TEXTS, **prompt) for prompt in prompts]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(forms[one] - forms[other]).max(axis=1).min() > TOLD_APART
    texts = embedding.texts
    assert np.abs(embedding.encoder.encode(texts) - embedding.encoder.encode(texts, normalize=False)).max(axis=1).min() > TOLD_APART
    reranker = servers["reranker"].encoder
    for pairs in ([(QUERY, text) for text in SMALL_TEXTS], [(text, QUERY) for text in SMALL_TEXTS]):
        scores = np.sort(sigmoid(reranker.encode(pairs, output="logits")[:, 0]))
        assert np.diff(scores).min() > TOLD_APART
    classifier = servers["classifier"].encoder
    for scores in softmax(classifier.encode(SMALL_TEXTS, output="logits")):
        assert scores.shape == (LABELS,)
        assert np.diff(np.sort(scores)).min() > TOLD_APART
