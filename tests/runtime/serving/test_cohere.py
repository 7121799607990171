"""Cohere's embed, version 1 and 2: each type of vectors from one computation, what its clients parse, and what is refused."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_bundle import build_golden_bundle
from hypothesis import given
from hypothesis import strategies as st
from served import Served

TEXTS = ["the cat", "", "a dog runs", "the cat"]
LONG = "the dog sleeps " * 20
TYPES = {"float": "float32", "int8": "int8", "uint8": "uint8", "binary": "binary", "ubinary": "ubinary"}


def floats(rows: Any) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def test_version_2(served: Served) -> None:
    answer = served.post("/v2/embed", {"model": "tiny", "texts": TEXTS, "input_type": "search_query"}, headers=[("x-request-id", "r1")])
    assert answer.status == 200
    tokens = sum(len(found.ids) for found in served.encoder.tokens(TEXTS, prompt_name="query"))
    about = dict(answer.json)
    np.testing.assert_array_equal(floats(about.pop("embeddings")["float"]), served.encoder.encode_query(TEXTS))
    assert about == {
        "id": "r1",
        "response_type": "embeddings_by_type",
        "texts": TEXTS,
        "meta": {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}, "tokens": {"input_tokens": tokens}},
    }


def test_version_1_without_types_is_a_list(served: Served) -> None:
    answer = served.post("/v1/embed", {"texts": TEXTS, "input_type": "search_document", "truncate": "END"}).json
    assert (answer["response_type"], answer["texts"], answer["meta"]["api_version"]) == ("embeddings_floats", TEXTS, {"version": "1"})
    np.testing.assert_array_equal(floats(answer["embeddings"]), served.encoder.encode_document(TEXTS))
    typed = served.post("/v1/embed", {"texts": TEXTS, "embedding_types": ["float"]}).json
    assert typed["response_type"] == "embeddings_by_type"
    np.testing.assert_array_equal(floats(typed["embeddings"]["float"]), served.encoder.encode(TEXTS))


@pytest.mark.parametrize("dimensions", [None, 8, 4])
def test_every_type_of_one_computation(served: Served, dimensions: int | None) -> None:
    body = {"texts": TEXTS, "embedding_types": [*TYPES, "base64", "float"], "output_dimension": dimensions}
    answer = served.post("/v2/embed", body)
    assert answer.status == 200
    found = answer.json["embeddings"]
    assert list(found) == [*TYPES, "base64"]
    for name, dtype in TYPES.items():
        rows = served.encoder.encode(TEXTS, dimensions=dimensions, dtype=dtype)
        assert np.array(found[name], dtype=rows.dtype).tobytes() == rows.tobytes(), name
    vectors = served.encoder.encode(TEXTS, dimensions=dimensions)
    assert b"".join(map(base64.b64decode, found["base64"])) == vectors.astype("<f4").tobytes()
    assert answer.headers["x-compute-tokens"] == str(answer.json["meta"]["tokens"]["input_tokens"])


def test_without_golden_vectors_there_are_no_ranges(plain_served: Served) -> None:
    for kind in ("int8", "uint8"):
        answer = plain_served.post("/v2/embed", {"texts": TEXTS, "embedding_types": ["float", kind]})
        assert (answer.status, answer.json["error"]["param"]) == (400, "embedding_types")
        assert "plain has no int8 and uint8" in answer.json["message"]
    assert plain_served.post("/v2/embed", {"texts": TEXTS, "embedding_types": ["binary", "ubinary", "base64"]}).status == 200


def test_inputs_in_parts(served: Served) -> None:
    body = {"inputs": [{"content": [{"type": "text", "text": text}]} for text in TEXTS], "input_type": "search_query"}
    assert (
        served.post("/v2/embed", body).json["embeddings"]
        == served.post("/v2/embed", {"texts": TEXTS, "input_type": "query"}).json["embeddings"]
    )


def test_kinds_of_input(served: Served, plain_served: Served, serve: Callable[..., Served], tmp_path: Path) -> None:
    def vectors(server: Served, kind: str | None) -> np.ndarray:
        answer = server.post("/v2/embed", {"texts": TEXTS, "input_type": kind})
        assert answer.status == 200, answer.json
        return floats(answer.json["embeddings"]["float"])

    np.testing.assert_array_equal(vectors(served, "search_document"), served.encoder.encode_document(TEXTS))
    np.testing.assert_array_equal(vectors(served, None), served.encoder.encode(TEXTS))
    for kind in ("search_query", "search_document", "classification", "clustering", None):
        np.testing.assert_array_equal(vectors(plain_served, kind), plain_served.encoder.encode(TEXTS))
    prompts = {"search_query": "the cat: ", "classification": "dog: "}
    server = serve(build_golden_bundle(tmp_path / "prompted", prompts=prompts, max_length=32))
    for kind in prompts:
        expected = server.encoder.encode(TEXTS, prompt_name=kind)
        np.testing.assert_array_equal(vectors(server, kind), expected)
        by_openai = server.post("/v1/embeddings", {"input": TEXTS, "input_type": kind}).json["data"]
        np.testing.assert_array_equal(floats([item["embedding"] for item in by_openai]), expected)
    answer = server.post("/v2/embed", {"texts": TEXTS, "input_type": "clustering"})
    assert answer.status == 400
    assert answer.json["message"] == "input_type is 'clustering', expected query, document, search_query or classification"


@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
def test_what_is_cut_is_seen(plain_served: Served, path: str) -> None:
    texts = ["cat", LONG + "xyz"]
    for truncate, side in (("START", "left"), ("END", "right"), (None, None)):
        answer = plain_served.post(path, {"texts": texts, "truncate": truncate, "embedding_types": ["float"]})
        expected = plain_served.encoder.encode(texts, on_overflow="truncate", truncation_side=side)
        np.testing.assert_array_equal(floats(answer.json["embeddings"]["float"]), expected)
        assert (answer.headers["x-cls-truncated"], answer.json["truncated"]) == ("1", [1])
        assert answer.json["meta"]["warnings"] == ["1 of 2 texts have more than the 16 tokens that the model takes, and were cut"]
    refused = plain_served.post(path, {"texts": texts, "truncate": "NONE"})
    assert (refused.status, refused.json["error"]["code"]) == (400, "context_length_exceeded")


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"texts": []}, 400, "texts is an empty list"),
        ({"inputs": []}, 400, "inputs is an empty list"),
        ({}, 400, "either texts or inputs, and not both"),
        ({"texts": ["a"], "inputs": []}, 400, "either texts or inputs, and not both"),
        ({"texts": "a"}, 400, "texts"),
        ({"texts": [[1, 2]]}, 400, "token ids"),
        ({"texts": ["a"], "embedding_types": ["float64"]}, 400, "embedding_types"),
        ({"texts": ["a"], "embedding_types": []}, 400, "embedding_types"),
        ({"texts": ["a"], "truncate": "MIDDLE"}, 400, "truncate"),
        ({"texts": ["a"], "truncate": True}, 400, "truncate"),
        ({"texts": ["a"], "output_dimension": 5}, 400, "output_dimension is 5, tiny has 4, 8"),
        ({"texts": ["a"], "input_type": "image"}, 400, "input_type is 'image'"),
        ({"texts": ["a"], "input_type": "query", "prompt_name": "document"}, 400, "different prompts"),
        ({"texts": ["a"], "prompt_name": "none such"}, 400, "none such"),
        ({"texts": ["a"], "images": ["data:"]}, 400, "images"),
        ({"inputs": [{"content": [{"type": "image_url", "image_url": {}}]}]}, 400, "inputs"),
        ({"inputs": [{"content": [{"type": "text", "text": "a"}] * 2}]}, 400, "inputs[0] has 2 parts"),
        ({"inputs": [{"content": []}]}, 400, "inputs[0] has 0 parts"),
        ({"texts": ["a"], "max_tokens": 4}, 400, "max_tokens is 4, tiny cuts texts at 16"),
        ({"texts": ["a"], "model": "embed-v4.0"}, 404, "tiny"),
        ({"texts": ["a"] * 2049}, 413, "2,049"),
    ],
)
@pytest.mark.parametrize("path", ["/v1/embed", "/v2/embed"])
def test_refused(served: Served, path: str, body: dict[str, Any], status: int, words: str) -> None:
    answer = served.post(path, body)
    assert (answer.status, set(answer.json)) == (status, {"error", "message"})
    assert words in answer.json["message"] == answer.json["error"]["message"]


def test_what_changes_nothing_is_taken(served: Served) -> None:
    nulls = dict.fromkeys(("images", "inputs", "embedding_types", "output_dimension", "truncate", "input_type", "max_tokens", "priority"))
    expected = served.post("/v2/embed", {"texts": TEXTS}).json["embeddings"]
    assert served.post("/v2/embed", {"texts": TEXTS, **nulls, "user": "me"}).json["embeddings"] == expected
    assert served.post("/v2/embed", {"texts": TEXTS, "max_tokens": 16, "priority": 1}).json["embeddings"] == expected


@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=10),
    kinds=st.lists(st.sampled_from([*TYPES, "base64"]), min_size=1, max_size=8),
    dimensions=st.sampled_from([None, 4, 8]),
    side=st.sampled_from([None, "START", "END"]),
)
def test_any_texts_as_the_encoder_gives_them(
    served: Served, texts: list[str], kinds: list[str], dimensions: int | None, side: str | None
) -> None:
    body = {"texts": texts, "embedding_types": kinds, "output_dimension": dimensions, "truncate": side}
    answer = served.post("/v2/embed", body)
    assert (answer.status, answer.json["texts"]) == (200, texts)
    found = answer.json["embeddings"]
    assert set(found) == set(kinds)
    cut = {None: None, "START": "left", "END": "right"}[side]
    vectors = served.encoder.encode(texts, dimensions=dimensions, on_overflow="truncate", truncation_side=cut)
    if "float" in kinds:
        np.testing.assert_allclose(floats(found["float"]), vectors, atol=2e-6)
    if "base64" in kinds:
        rows = np.stack([np.frombuffer(base64.b64decode(text), dtype="<f4") for text in found["base64"]])
        np.testing.assert_allclose(rows, vectors, atol=2e-6)
