"""OpenAI's embeddings and models: every field and rule of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Answer, Running, Served, from_base64

PATHS = ("/v1/embeddings", "/embeddings")
LONG = "the dog sleeps " * 20
TEXTS = ["the cat sleeps", "", "dog", "the cat sleeps", LONG, "ünïcödé 漢字 \U0001f600\u0000\u2028"]


def vectors(answer: Answer) -> np.ndarray:
    """The vectors of an answer, in the order of its indices, which is that of its items."""
    assert answer.status == 200, answer.body
    data = answer.json["data"]
    assert [item["index"] for item in data] == list(range(len(data)))
    assert {item["object"] for item in data} == {"embedding"}
    found = [item["embedding"] for item in data]
    return np.array([from_base64(item) if isinstance(item, str) else item for item in found], dtype=np.float32)


def refused(answer: Answer, status: int = 400) -> str:
    """The message of a refusal, which is one line and stands where OpenAI's clients and Cohere's look."""
    assert answer.status == status, answer.body
    assert set(answer.json) == {"error", "message"}
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    assert answer.json["error"]["message"] == answer.json["message"]
    assert "\n" not in answer.json["message"]
    return str(answer.json["message"])


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_vectors_are_the_encoders(served: Served, path: str, encoding: str | None) -> None:
    answer = served.post(path, {"input": TEXTS, "model": "tiny", "encoding_format": encoding})
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert vectors(answer).tobytes() == served.encoder.encode(TEXTS).tobytes()
    assert all(isinstance(item["embedding"], str) == (encoding == "base64") for item in answer.json["data"])


def test_the_whole_answer(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"input": "the cat"})
    assert answer.json == {
        "object": "list",
        "data": [{"object": "embedding", "index": 0, "embedding": answer.json["data"][0]["embedding"]}],
        "model": "tiny",
        "usage": {"prompt_tokens": 7, "total_tokens": 7},  # [CLS] a dog : the cat [SEP]
    }
    assert answer.headers["x-compute-tokens"] == "7"
    assert "x-cls-truncated" not in answer.headers


def test_usage_counts_repeats_as_often_as_they_are_there(served: Served) -> None:
    usage = served.post("/v1/embeddings", {"input": ["the cat", "the cat", ""]}).json["usage"]
    assert usage == {"prompt_tokens": 19, "total_tokens": 19}


def test_what_is_cut_is_visible(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"input": [LONG, "cat", LONG]})
    assert answer.json["truncated"] == [0, 2]
    assert answer.headers["x-cls-truncated"] == "2"
    assert "cls_truncated_inputs_total 0.0" not in served.get("/metrics").body.decode()


@pytest.mark.parametrize("field", ["truncate", "truncation"])
def test_what_is_too_long_is_an_error_where_it_is_not_to_be_cut(served: Served, field: str) -> None:
    answer = served.post("/v1/embeddings", {"input": ["cat", LONG], field: False})
    assert re.search(r"input: text 1 has \d+ tokens, the model takes 16; .*truncate", refused(answer))
    assert answer.json["error"]["code"] == "context_length_exceeded"


def test_what_is_too_long_is_an_error_where_the_server_says_so(serve: Callable[..., Served], trained: Path) -> None:
    server = serve(trained, on_overflow="raise")
    assert server.post("/v1/embeddings", {"input": LONG}).status == 400
    assert server.post("/v1/embeddings", {"input": LONG, "truncate": True}).json["truncated"] == [0]


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"prompt_name": "query"}, {"prompt_name": "query"}),
        ({"input_type": "query"}, {"prompt_name": "query"}),
        ({"input_type": "document"}, {"prompt_name": "document"}),
        ({"input_type": "search_query"}, {"prompt_name": "query"}),
        ({"input_type": "search_document"}, {"prompt_name": "document"}),
        ({"input_type": "search_query", "prompt_name": "query"}, {"prompt_name": "query"}),
        ({"dimensions": 4}, {"dimensions": 4}),
        ({"dimensions": 8}, {"dimensions": 8}),
        ({"output_dimension": 4}, {"dimensions": 4}),
        ({"dimensions": 4, "output_dimension": 4}, {"dimensions": 4}),
        ({"normalize": False}, {"normalize": False}),
        ({"normalize": True}, {"normalize": True}),
        ({"normalized": False}, {"normalize": False}),
        ({"dimensions": 4, "normalize": False}, {"dimensions": 4, "normalize": False}),
        ({"truncation_side": "left"}, {"truncation_side": "left"}),
        ({"truncation_direction": "Left"}, {"truncation_side": "left"}),
        ({"truncation_direction": "Right"}, {"truncation_side": "right"}),
        ({"user": "me"}, {}),
        ({"user": {"any": "thing"}}, {}),
        ({"unknown": [1, {"a": None}], "metadata": {}, "priority": 1}, {}),
        ({"model": "tiny"}, {}),
        ({"model": ""}, {}),
    ],
)
def test_options(served: Served, fields: dict[str, Any], options: dict[str, Any]) -> None:
    texts = ["the cat", "a", LONG]
    given = vectors(served.post("/v1/embeddings", {"input": texts, "encoding_format": "base64"} | fields))
    expected = served.encoder.encode(texts, **options)
    assert given.shape == expected.shape
    assert given.tobytes() == expected.tobytes()


def test_null_is_as_absent(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"input": "a"})
    names = [
        *("model", "encoding_format", "dimensions", "user", "prompt_name", "input_type", "normalize", "truncate", "output_dimension"),
        *("truncation_side", "truncation_direction", "normalized", "truncation", "task", "images", "prompt", "add_special_tokens"),
    ]
    assert served.post("/v1/embeddings", {"input": "a"} | dict.fromkeys(names)).body == answer.body


@pytest.mark.parametrize(
    "fields",
    [
        {"add_special_tokens": True},
        {"embedding_type": "float"},
        {"embedding_type": ["float"]},
        {"output_dtype": "float"},
        {"embed_dtype": "float32"},
        {"endianness": "little"},
        {"endianness": "native"},
        {"late_chunking": False},
        {"return_multivector": False},
        {"truncate_prompt_tokens": -1},
        {"modality": "text"},
        {"images": []},
        {"precision": "float32"},
        {"embd_normalize": 2},
        {"encoding_format": "float"},
        {"truncate": True},
    ],
)
def test_asking_for_what_it_is_anyway_changes_nothing(served: Served, fields: dict[str, Any]) -> None:
    assert served.post("/v1/embeddings", {"input": ["a"]} | fields).body == served.post("/v1/embeddings", {"input": ["a"]}).body


@pytest.mark.parametrize(
    "fields",
    [
        {"add_special_tokens": False},
        {"add_special_tokens": 1},
        {"embedding_type": "binary"},
        {"output_dtype": "int8"},
        {"embed_dtype": "float16"},
        {"endianness": "big"},
        {"late_chunking": True},
        {"truncate_prompt_tokens": 5},
        {"task": "retrieval.query"},
        {"task_type": "RETRIEVAL_QUERY"},
        {"modality": "image"},
        {"images": ["data:"]},
        {"messages": []},
        {"pooling": "mean"},
        {"pooling_type": "CLS"},
        {"prompt": "query: "},
        {"prompt": ""},
        {"instruction": "Represent this"},
        {"precision": "int8"},
        {"embd_normalize": -1},
        {"dimensionality": 4},
    ],
)
def test_asking_for_other_vectors(served: Served, fields: dict[str, Any]) -> None:
    answer = served.post("/v1/embeddings", {"input": "a"} | fields)
    (name,) = fields
    assert refused(answer).startswith(f"{name} asks for vectors that this server does not compute; ")
    assert answer.json["error"]["param"] == name


@pytest.mark.parametrize("value", [[1, 2, 3], [[1, 2], [3]], [["a"]], 5, 1.5, ["a", 1], [0.5]])
def test_token_ids_are_refused_with_the_way_out(served: Served, value: Any) -> None:
    answer = served.post("/v1/embeddings", {"input": value, "model": "tiny"})
    assert "send text (LangChain: check_embedding_ctx_length=False)" in refused(answer)
    assert answer.json["error"] | {"message": ""} == {
        "message": "",
        "type": "invalid_request_error",
        "param": "input",
        "code": "token_ids_not_supported",
    }


@pytest.mark.parametrize(
    ("body", "param", "message"),
    [
        ({"input": []}, "input", r"input is an empty list; send at least one"),
        ({"input": None}, "input", r"input is null, expected a string or a list"),
        ({"input": {"text": "a"}}, "input", r"input is an object, expected a string or a list"),
        ({"input": [None]}, "input", r"input\[0\] is null, expected a string"),
        ({"input": True}, "input", r"input is a boolean, expected a string or a list"),
        ({}, "input", r"input is missing; it is required"),
        ([], None, r"the body is a list, expected an object"),
        ("a", None, r"the body is a string, expected an object"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format", r"encoding_format is 'hex', expected float or base64"),
        ({"input": "a", "encoding_format": "x" * 10**6}, "encoding_format", r"encoding_format is 'x{99}, expected float or base64"),
        ({"input": "a", "encoding_format": 1}, "encoding_format", r"encoding_format is a whole number, expected a string or null"),
        ({"input": "a", "dimensions": 5}, "dimensions", r"dimensions is 5, tiny has 4, 8; ask for one of these or leave it out"),
        ({"input": "a", "dimensions": 0}, "dimensions", r"dimensions is 0, tiny has"),
        ({"input": "a", "dimensions": -4}, "dimensions", r"dimensions is -4, tiny has"),
        ({"input": "a", "dimensions": 10**400}, "dimensions", r"dimensions is far too large, tiny has"),
        ({"input": "a", "dimensions": "4"}, "dimensions", r"dimensions is a string, expected a whole number or null"),
        ({"input": "a", "dimensions": 4.0}, "dimensions", r"dimensions is a number, expected a whole number or null"),
        ({"input": "a", "dimensions": True}, "dimensions", r"dimensions is a boolean, expected a whole number or null"),
        ({"input": "a", "normalize": "true"}, "normalize", r"normalize is a string, expected a boolean or null"),
        ({"input": "a", "truncate": "END"}, "truncate", r"truncate is a string, expected a boolean or null"),
        ({"input": "a", "prompt_name": "nope"}, "prompt_name", r"prompt_name is 'nope', tiny has query, document; name one"),
        ({"input": "a", "prompt_name": 1}, "prompt_name", r"prompt_name is a whole number, expected a string or null"),
        ({"input": "a", "input_type": "passage"}, "input_type", r"input_type is 'passage', expected query or document"),
        (
            {"input": "a", "input_type": "query", "prompt_name": "document"},
            "input_type",
            r"prompt_name and input_type name different prompts; send one of them",
        ),
        ({"input": "a", "dimensions": 4, "output_dimension": 8}, "output_dimension", r"dimensions and output_dimension contradict each"),
        ({"input": "a", "normalize": True, "normalized": False}, "normalized", r"normalize and normalized contradict each other"),
        ({"input": "a", "truncate": True, "truncation": False}, "truncation", r"truncate and truncation contradict each other"),
        ({"input": "a", "truncation_side": "up"}, "truncation_side", r"truncation_side is 'up', expected left or right"),
        ({"input": "a", "model": 5}, "model", r"model is a whole number, expected a string or null"),
    ],
)
def test_what_makes_no_sense(served: Served, body: Any, param: str | None, message: str) -> None:
    answer = served.post("/v1/embeddings", body)
    assert re.match(message, refused(answer))
    assert answer.json["error"]["param"] == param
    assert answer.json["error"]["type"] == "invalid_request_error"


def test_an_unknown_model(served: Served) -> None:
    for answer in (served.post("/v1/embeddings", {"input": "a", "model": "gpt"}), served.get("/v1/models/gpt")):
        assert refused(answer, 404) == "the model 'gpt' is not served here, found tiny; name one of these or leave model out"
        assert answer.json["error"]["code"] == "model_not_found"


def test_names(serve: Callable[..., Served], trained: Path, bundle: Path) -> None:
    server = serve(trained, model_names=("one", "org/two", "*"))
    assert server.post("/v1/embeddings", {"input": "a"}).json["model"] == "one"
    for name in ("one", "org/two", "whatever"):
        assert server.post("/v1/embeddings", {"input": "a", "model": name}).json["model"] == name
    assert [model["id"] for model in server.get("/v1/models").json["data"]] == ["one", "org/two"]
    assert server.get("/v1/models/org/two").json["id"] == server.get("/v1/models/org%2Ftwo").json["id"] == "org/two"
    assert server.get("/v1/models/whatever").json["id"] == "one"
    two = serve(trained, bundle, model_names=("trained", "plain"))
    first, second = (model.encoder for model in two.service.models.all)
    for name, encoder in (("trained", first), ("plain", second), (None, first)):
        answer = two.post("/v1/embeddings", {"input": "a dog", "model": name, "encoding_format": "base64"})
        assert vectors(answer).tobytes() == encoder.encode(["a dog"]).tobytes()
        assert answer.headers["x-cls-fingerprint"] == encoder.manifest.fingerprint


def test_models(served: Served) -> None:
    (model,) = served.get("/v1/models").json["data"]
    assert model == {"id": "tiny", "object": "model", "created": model["created"], "owned_by": "cls-export"}
    assert isinstance(model["created"], int)
    assert served.get("/v1/models").json["object"] == "list"
    assert served.get("/v1/models/tiny").json == model


def test_without_prompts(plain_served: Served) -> None:
    texts = ["the cat", "a"]
    for fields in ({}, {"input_type": "query"}, {"input_type": "search_document"}, {"prompt_name": "query"}):
        given = vectors(plain_served.post("/v1/embeddings", {"input": texts} | fields))
        np.testing.assert_array_equal(given, plain_served.encoder.encode(texts))
    assert "plain has 8;" in refused(plain_served.post("/v1/embeddings", {"input": "a", "dimensions": 4}))


def test_the_servers_prompt(serve: Callable[..., Served], trained: Path) -> None:
    server = serve(trained, prompt_name="query")
    expected = {name: server.encoder.encode(["a"], prompt_name=name) for name in ("query", "document")}
    np.testing.assert_array_equal(vectors(server.post("/v1/embeddings", {"input": "a"})), expected["query"])
    np.testing.assert_array_equal(vectors(server.post("/v1/embeddings", {"input": "a", "prompt_name": "document"})), expected["document"])


def test_too_many(serve: Callable[..., Served], bundle: Path) -> None:
    server = serve(bundle, max_inputs=3)
    assert server.post("/v1/embeddings", {"input": ["a"] * 3}).status == 200
    answer = server.post("/v1/embeddings", {"input": ["a"] * 4})
    assert refused(answer, 413) == "input has 4 items, at most 3 per request are allowed (--max-inputs)"


def test_a_real_server_gives_the_same(real_server: Running, served: Served) -> None:
    texts = [f"the cat {number}" for number in range(100)]
    answer = real_server.ask("/v1/embeddings", {"input": texts})
    np.testing.assert_array_equal(vectors(answer), served.encoder.encode(texts))
    assert real_server.ask("/v1/embeddings", {"input": [1]}).status == 400
    assert real_server.ask("/v1/models").json["data"][0]["id"] == real_server.ask("/v1/embeddings", {"input": "a"}).json["model"]


@given(
    texts=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=80), min_size=1, max_size=40),
    encoding=st.sampled_from(["float", "base64", None]),
    normalize=st.sampled_from([True, False, None]),
    prompt_name=st.sampled_from(["query", "document", None]),
    dimensions=st.sampled_from([4, 8, None]),
)
def test_any_text_and_options(
    served: Served, texts: list[str], encoding: str | None, normalize: bool | None, prompt_name: str | None, dimensions: int | None
) -> None:
    options = {"normalize": normalize, "prompt_name": prompt_name, "dimensions": dimensions}
    answer = served.post("/v1/embeddings", {"input": texts, "encoding_format": encoding} | options)
    assert vectors(answer).tobytes() == served.encoder.encode(texts, **options).tobytes()
    tokens = served.encoder.tokens(texts, prompt_name=prompt_name, on_overflow="truncate")
    assert answer.json["usage"]["prompt_tokens"] == sum(len(item.ids) for item in tokens)
    cut = [index for index, item in enumerate(tokens) if item.truncated is not None]
    assert answer.json.get("truncated", []) == cut
    assert answer.headers.get("x-cls-truncated", "0") == str(len(cut))
