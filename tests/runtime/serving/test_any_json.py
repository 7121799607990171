"""Whatever comes to an endpoint of scores, of Cohere's or to POST /: an answer or a refusal in its protocol's words, never a failure."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bundle_builder import build_bundle
from hypothesis import event, given
from hypothesis import strategies as st
from served import Served

from cls_runtime.serving.application import ENDPOINTS

PATHS = ("/predict", "/rerank", "/v1/rerank", "/v2/rerank", "/v1/embed", "/v2/embed", "/")
TEI_PATHS = ("/predict", "/rerank", "/")

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4), max_leaves=8
)
TEXTS = st.lists(st.text(max_size=30), max_size=5)
DOCUMENTS = st.lists(st.text(max_size=30) | st.fixed_dictionaries({"text": st.text(max_size=30)}), max_size=5)
PARTS = st.fixed_dictionaries({"type": st.sampled_from(["text", "image_url"]), "text": st.text(max_size=9)})
# What a request cannot do without: one of these.
NEEDED = {
    "/predict": [["inputs"]],
    "/rerank": [["query", "texts"], ["query", "documents"]],
    "/v1/rerank": [["query", "documents"]],
    "/v2/rerank": [["query", "documents"]],
    "/v1/embed": [["texts"], ["inputs"]],
    "/v2/embed": [["texts"], ["inputs"]],
    "/": [["inputs"], ["query", "texts"], ["query", "documents"]],
}
# Values that make sense for a field, which each test mixes with any others.
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "query": st.text(max_size=30),
    "texts": TEXTS,
    "documents": DOCUMENTS,
    "inputs": st.one_of(
        st.text(max_size=30),
        TEXTS,
        st.lists(st.lists(st.text(max_size=9), max_size=3), max_size=4),
        st.lists(st.fixed_dictionaries({"content": st.lists(PARTS, max_size=2)}), max_size=3),
        st.fixed_dictionaries({"source_sentence": st.text(max_size=9), "sentences": TEXTS}),
    ),
    "model": st.sampled_from(["ranks", "labels", "other", ""]),
    "top_n": st.integers(-1, 9),
    "return_documents": st.booleans(),
    "return_text": st.booleans(),
    "raw_scores": st.booleans(),
    "truncate": st.booleans() | st.sampled_from(["NONE", "START", "END", "other"]),
    "truncation_direction": st.sampled_from(["Left", "right", "up"]),
    "prompt_name": st.sampled_from(["query", "document", "other"]),
    "input_type": st.sampled_from(["search_query", "search_document", "clustering", "image", "other"]),
    "embedding_types": st.lists(st.sampled_from(["float", "int8", "uint8", "binary", "ubinary", "base64", "other"]), max_size=3),
    "output_dimension": st.integers(-1, 9) | st.integers(),
    "max_tokens": st.integers(),
    "max_tokens_per_doc": st.integers(),
    "max_chunks_per_doc": st.integers(0, 2),
    "rank_fields": st.lists(st.sampled_from(["text", "title"]), max_size=2),
    "parameters": st.fixed_dictionaries(
        {}, optional={"function_to_apply": st.sampled_from(["sigmoid", "softmax", "none", "x"]), "top_k": st.integers(-1, 4)}
    ),
    "images": JSON,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, bundle: Path) -> Iterator[Served]:
    """Of a reranker and a classifier."""
    reranker = build_bundle(tmp_path_factory.mktemp("bundle") / "reranker", label_count=1)
    with Served.of(reranker, bundle, model_names=("ranks", "labels")) as server:
        yield server


def check(server: Served, path: str, body: Any) -> None:
    answer = server.post(path, body)
    event(f"{path} {answer.status}")
    assert answer.status in (200, 400, 404, 422, 424), (path, body, answer)
    if answer.status == 200:
        assert isinstance(answer.json, (list, dict))
        return
    fields = {"error", "error_type"} if path in TEI_PATHS else {"error", "message"}
    assert set(answer.json) == fields
    message = answer.json["error"] if path in TEI_PATHS else answer.json["message"]
    assert message
    assert "\n" not in message
    assert len(message) < 1000
    assert path in TEI_PATHS or answer.status not in (422, 424)


@given(path=st.sampled_from(PATHS), body=JSON)
def test_any_json(server: Served, path: str, body: Any) -> None:
    check(server, path, body)


@pytest.mark.parametrize("path", PATHS)
@given(data=st.data())
def test_fields_that_are_known_with_any_values(server: Served, path: str, data: st.DataObject) -> None:
    more = data.draw(st.lists(st.sampled_from(sorted(FIELDS)), max_size=3))
    names = sorted({*data.draw(st.sampled_from(NEEDED[path])), *more})
    odd = data.draw(st.none() | st.sampled_from(names))
    check(server, path, {name: data.draw(JSON if name == odd else FIELDS[name]) for name in names})


@pytest.mark.parametrize("path", PATHS)
@given(body=st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_any_bytes(server: Served, path: str, body: bytes) -> None:
    check(server, path, body)


def test_answers_are_of_the_types_that_are_documented(server: Served) -> None:
    """Every 200 decodes to its endpoint's type, with no field beside those."""
    by_path = {endpoint.path: endpoint for endpoint in ENDPOINTS if endpoint.method == "POST" and endpoint.path in PATHS}
    assert set(by_path) == set(PATHS)
    long = "the cat sleeps " * 20
    documents = {"query": "the cat", "documents": ["a", long], "return_documents": True}
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("/predict", {"inputs": "a"}),
        ("/predict", {"inputs": [["a"], ["a", long]]}),
        ("/rerank", {"query": "a", "texts": ["a", long], "return_text": True}),
        ("/rerank", documents),
        ("/v1/rerank", documents),
        ("/v2/rerank", documents),
        ("/v1/embed", {"texts": ["a", long]}),
        ("/v1/embed", {"texts": ["a", long], "embedding_types": ["float", "base64"]}),
        ("/v2/embed", {"texts": ["a", long], "embedding_types": ["float", "binary", "ubinary", "base64"]}),
    ]
    for path, body in bodies:
        answer = server.post(path, body)
        assert answer.status == 200
        known = msgspec.json.decode(answer.body, type=by_path[path].answer)
        assert msgspec.to_builtins(known) == answer.json
    msgspec.json.schema_components([kind for endpoint in by_path.values() for kind in (endpoint.body, endpoint.answer)])
