"""POST /: what is meant is in the body, and what is answered is what the endpoint of that kind answers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from bundle_builder import build_bundle
from served import Served

TEXTS = ["the cat", "a dog runs", ""]
SIMILAR = {"inputs": {"source_sentence": "the cat", "sentences": TEXTS}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of a bundle without logits."""
    folder = tmp_path_factory.mktemp("bundle") / "vectors"
    build_bundle(folder, outputs=("sentence_embedding",), normalize=True, prompts={"query": "the cat, "}, matryoshka_dims=(4,))
    with Served.of(folder, model_names=("tiny",)) as server:
        yield server


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/embed", {"inputs": "the cat"}),
        ("/embed", {"inputs": TEXTS, "normalize": False, "truncate": True, "truncation_direction": "left", "prompt_name": "query"}),
        ("/embed", {"inputs": TEXTS, "parameters": {}, "query": None}),
        ("/embed", {"inputs": TEXTS, "model": "tiny"}),
        ("/embed", {"inputs": []}),
        ("/embed", {"inputs": [[1, 2]]}),
        ("/embed", {"inputs": TEXTS, "pooling": "mean"}),
        ("/embed", {"inputs": TEXTS, "dimensions": 5}),
        ("/embed", {"inputs": TEXTS, "model": "other"}),
        ("/similarity", SIMILAR),
        ("/similarity", SIMILAR | {"parameters": {}}),
        ("/similarity", {"inputs": {}}),
        ("/rerank", {"query": "the cat", "texts": TEXTS}),
        ("/rerank", {"query": "the cat", "documents": TEXTS}),
    ],
)
def test_vectors(server: Served, path: str, body: dict[str, Any]) -> None:
    at_root, expected = server.post("/", body), server.post(path, body)
    assert (at_root.status, at_root.json) == (expected.status, expected.json)
    assert ("x-compute-tokens" in at_root.headers) == (at_root.status == 200)


def test_a_classifiers_prediction_is_nested(plain_served: Served) -> None:
    """InferenceClient.text_classification reads `response[0]`."""
    at_root = plain_served.post("/", {"inputs": "the cat"}).json
    assert at_root == [plain_served.post("/predict", {"inputs": "the cat"}).json]
    batch = {"inputs": [["the cat"], ["the cat", "a dog"]]}
    assert plain_served.post("/", batch).json == plain_served.post("/predict", batch).json
    assert plain_served.post("/", SIMILAR).json == plain_served.post("/similarity", SIMILAR).json


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "empty"),
        (b"[]", "expected an object"),
        (b'"text"', "expected an object"),
        (b"null", "expected an object"),
        (b"{}", "neither inputs nor query"),
        (b'{"inputs": null, "query": null}', "neither inputs nor query"),
        (b'{"inputs": "a"', "not JSON"),
        (b'{"inputs": "a"} x', "not JSON"),
        (b'{"inputs": "\xff"}', "UTF-8"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deep"),
        (b'{"inputs": NaN}', "not JSON"),
    ],
)
def test_refused(server: Served, plain_served: Served, body: bytes, words: str) -> None:
    for asked in (server, plain_served):
        answer = asked.post("/", body)
        assert (answer.status, set(answer.json)) == (400, {"error", "error_type"})
        assert words in answer.json["error"]


def test_it_is_counted_where_it_came(server: Served) -> None:
    server.post("/", {"inputs": TEXTS})
    lines = server.get("/metrics").body.decode().splitlines()
    (counted,) = [line for line in lines if line.startswith('cls_inputs_total{endpoint="/"}')]
    assert float(counted.split()[-1]) >= len(TEXTS)
