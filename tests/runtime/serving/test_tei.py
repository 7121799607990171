"""text-embeddings-inference's endpoints: every field and rule of the contract."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from served import Answer, Served

import cls_runtime
from cls_runtime.serving.protocols import tei_tokens

LONG = "the dog sleeps " * 20
TEXTS = ["the cat sleeps", "", "dog", "the cat sleeps", LONG, "ünïcödé 漢字 \U0001f600\u0000"]
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


def rows(answer: Answer) -> np.ndarray:
    assert answer.status == 200, answer.body
    return np.array(answer.json, dtype=np.float32)


def refused(answer: Answer, status: int, kind: str = "Validation") -> str:
    """The message of a refusal, which is one line, in TEI's form."""
    assert answer.status == status, answer.body
    assert set(answer.json) == {"error", "error_type"}
    assert answer.json["error_type"] == kind
    assert "\n" not in answer.json["error"]
    return str(answer.json["error"])


@pytest.mark.parametrize("inputs", [TEXTS, ["a"], "a", ""])
def test_vectors_are_the_encoders_and_unit_vectors(plain_served: Served, inputs: Any) -> None:
    given = rows(plain_served.post("/embed", {"inputs": inputs}))
    texts = [inputs] if isinstance(inputs, str) else inputs
    assert given.tobytes() == plain_served.encoder.encode(texts, normalize=True).tobytes()


@pytest.mark.parametrize(
    ("fields", "options"),
    [
        ({"normalize": False}, {"normalize": False}),
        ({"normalize": None}, {"normalize": True}),
        ({"truncate": True}, {"normalize": True}),
        ({"truncation_direction": "Left"}, {"normalize": True, "truncation_side": "left"}),
        ({"truncation_direction": "left"}, {"normalize": True, "truncation_side": "left"}),
        ({"truncation_direction": "Right"}, {"normalize": True, "truncation_side": "right"}),
        ({"prompt_name": "query"}, {"normalize": True, "prompt_name": "query"}),
        ({"dimensions": 4}, {"normalize": True, "dimensions": 4}),
        ({"dimensions": 4, "normalize": False}, {"normalize": False, "dimensions": 4}),
        ({"encoding_format": "float"}, {"normalize": True}),
        ({"parameters": {}, "options": {"wait_for_model": True}}, {"normalize": True}),
        ({"parameters": {"normalize": None}}, {"normalize": True}),
        ({"model": "tiny", "unknown": 1}, {"normalize": True}),
    ],
)
def test_options(served: Served, fields: dict[str, Any], options: dict[str, Any]) -> None:
    texts = ["the cat", "a", LONG]
    assert rows(served.post("/embed", {"inputs": texts} | fields)).tobytes() == served.encoder.encode(texts, **options).tobytes()


def test_headers_say_the_tokens_and_what_was_cut(served: Served) -> None:
    answer = served.post("/embed", {"inputs": ["the cat", LONG]})
    assert answer.headers["x-compute-tokens"] == "23"
    assert answer.headers["x-cls-truncated"] == "1"
    assert answer.headers["x-cls-fingerprint"] == served.encoder.manifest.fingerprint
    assert set(re.findall(r"(\w+);dur=", answer.headers["server-timing"])) >= {"read", "parse", "queue", "tokenize", "compute", "total"}


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "message"),
    [
        ("/embed", {"inputs": []}, 400, "Empty", r"inputs is an empty list; send at least one"),
        ("/embed", {}, 400, "Validation", r"inputs is missing"),
        ("/embed", {"inputs": [1, 2]}, 400, "Validation", r"inputs\[0\] is not text; .*check_embedding_ctx_length"),
        ("/embed", {"inputs": [[1, 2]]}, 400, "Validation", r"inputs\[0\] is not text; .*check_embedding_ctx_length"),
        ("/embed", {"inputs": "a", "normalize": "yes"}, 400, "Validation", r"normalize is a string, expected a boolean or null"),
        ("/embed", {"inputs": "a", "truncation_direction": "up"}, 422, "Validation", r"truncation_direction is 'up', expected left"),
        ("/embed", {"inputs": "a", "truncation_direction": 1}, 400, "Validation", r"truncation_direction is a whole number"),
        ("/embed", {"inputs": "a", "dimensions": 5}, 422, "Validation", r"dimensions is 5, tiny has 4, 8"),
        ("/embed", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", r"prompt_name is 'x', tiny has query, document"),
        ("/embed", {"inputs": LONG, "truncate": False}, 422, "Validation", r"inputs: text 0 has \d+ tokens, the model takes 16"),
        ("/embed", {"inputs": "a", "encoding_format": "base64"}, 422, "Validation", r"encoding_format is 'base64', expected float"),
        ("/embed", {"inputs": "a", "pooling": "mean"}, 422, "Validation", r"pooling asks for vectors"),
        ("/embed", {"inputs": "a", "parameters": {"normalize": False}}, 422, "Validation", r"parameters has normalize; "),
        ("/embed", {"inputs": "a", "model": "x"}, 404, "Validation", r"the model 'x' is not served here, found tiny"),
        ("/embed", b"{", 400, "Validation", r"the body is not JSON"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, 400, "Empty", r"inputs.sentences is an empty list"),
        ("/similarity", {"inputs": {"source_sentence": "a"}}, 400, "Validation", r"inputs.sentences is missing"),
        ("/similarity", {"inputs": {"source_sentence": 1, "sentences": ["a"]}}, 400, "Validation", r"inputs.source_sentence is not text"),
        ("/similarity", {"inputs": {"source_sentence": "a", "sentences": "a"}}, 400, "Validation", r"inputs.sentences is a string"),
        ("/similarity", {"inputs": "a"}, 400, "Validation", r"inputs is a string, expected an object"),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": {"truncation_direction": "x"}},
            422,
            "Validation",
            r"parameters.truncation_direction is 'x', expected left",
        ),
        (
            "/similarity",
            {"inputs": {"source_sentence": "a", "sentences": ["a"]}, "parameters": {"pooling": "x"}},
            422,
            "Validation",
            r"pooling asks for vectors",
        ),
        ("/tokenize", {"inputs": []}, 400, "Empty", r"inputs is an empty list"),
        ("/tokenize", {"inputs": [1]}, 400, "Validation", r"inputs\[0\] is not text"),
        ("/tokenize", {"inputs": "a", "prompt_name": "x"}, 422, "Validation", r"prompt_name is 'x'"),
        ("/tokenize", {"inputs": "a", "add_special_tokens": 1}, 400, "Validation", r"add_special_tokens is a whole number"),
        ("/decode", {"ids": []}, 400, "Empty", r"ids is an empty list"),
        ("/decode", {"ids": ["a"]}, 400, "Validation", r"ids\[0\] is a string, expected a whole number or a list"),
        ("/decode", {"ids": [1, [2]]}, 400, "Validation", r"ids mixes numbers and lists"),
        ("/decode", {"ids": [1.5]}, 400, "Validation", r"ids\[0\] is a number"),
        ("/decode", {"ids": [True]}, 400, "Validation", r"ids\[0\] is a boolean"),
        ("/decode", {"ids": [[[1]]]}, 400, "Validation", r"ids\[0\]\[0\] is a list|ids\[\.\.\.\]|ids\[0\]"),
        ("/decode", {"ids": [93]}, 422, "Tokenizer", r"ids: list 0 has the id 93, which no token has; this model's ids are 0 to 92"),
        ("/decode", {"ids": [[1], [-1]]}, 422, "Tokenizer", r"ids: list 1 has the id -1"),
        ("/decode", {"ids": [2**63]}, 422, "Tokenizer", r"ids: list 0"),
        ("/decode", {"ids": [2**70]}, 422, "Tokenizer", r"ids: list 0"),
    ],
)
def test_what_makes_no_sense(served: Served, path: str, body: Any, status: int, kind: str, message: str) -> None:
    assert re.match(message, refused(served.post(path, body), status, kind))


def test_too_many(serve: Callable[..., Served], bundle: Path) -> None:
    server = serve(bundle, max_inputs=3)
    for path, fits in (("/embed", ["a"] * 3), ("/tokenize", ["a"] * 3)):
        assert server.post(path, {"inputs": fits}).status == 200
        refused(server.post(path, {"inputs": [*fits, "a"]}), 413)
    assert server.post("/decode", {"ids": [[2]] * 3}).status == 200
    refused(server.post("/decode", {"ids": [[2]] * 4}), 413)
    refused(server.post("/similarity", {"inputs": {"source_sentence": "a", "sentences": ["a"] * 3}}), 413)


@pytest.mark.parametrize("fields", [{}, {"parameters": {}}, {"parameters": None}, {"parameters": {"prompt_name": "query"}}])
def test_similarity(served: Served, fields: dict[str, Any]) -> None:
    sentences = ["the cat", "a dog runs", "", "the cat sleeps"]
    given = rows(served.post("/similarity", {"inputs": {"source_sentence": "the cat sleeps", "sentences": sentences}} | fields))
    prompt_name = (fields.get("parameters") or {}).get("prompt_name")
    first, *others = served.encoder.encode(["the cat sleeps", *sentences], prompt_name=prompt_name).astype(np.float64)
    expected = [first @ other / np.linalg.norm(first) / np.linalg.norm(other) for other in others]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)
    assert given[3] == 1.0


def test_tokens(served: Served) -> None:
    (found,) = served.post("/tokenize", {"inputs": "Cats!", "prompt_name": "query"}).json
    assert found[0] == {"id": 2, "text": "[CLS]", "special": True, "start": None, "stop": None}
    text = "the cat, Cats!"
    assert [(token["text"], token["start"], token["stop"]) for token in found[1:-1]] == [
        *(("the", 0, 3), ("cat", 4, 7), (",", 7, 8), ("Cat", 9, 12), ("s", 12, 13), ("!", 13, 14))
    ]
    assert all(text[token["start"] : token["stop"]] == token["text"] and not token["special"] for token in found[1:-1])
    assert found[-1]["text"] == "[SEP]"
    (bare,) = served.post("/tokenize", {"inputs": ["Cats!"], "prompt_name": "query", "add_special_tokens": False}).json
    assert bare == found[1:-1]
    (cat,) = served.post("/tokenize", {"inputs": "[SEP]", "add_special_tokens": False, "prompt_name": "query"}).json
    assert cat[-1] | {"start": 0, "stop": 0} == {"id": 3, "text": "[SEP]", "special": False, "start": 0, "stop": 0}


def test_the_tokens_of_a_long_text_are_all_there(served: Served) -> None:
    answer = served.post("/tokenize", {"inputs": LONG, "prompt_name": "query"})
    (found,) = answer.json
    assert len(found) == 2 + 3 + 3 * 20  # special, of the prompt, of the text
    assert "x-cls-truncated" not in answer.headers


def test_many_texts_are_tokenized_in_turns(served: Served) -> None:
    texts = [f"the cat {number}, " * 20 for number in range(300)]
    whole = served.post("/tokenize", {"inputs": texts}).json
    assert whole == [served.post("/tokenize", {"inputs": text}).json[0] for text in texts]
    ids = [[token["id"] for token in tokens] for tokens in whole]
    assert served.post("/decode", {"ids": ids}).json == served.encoder.decode(ids)


def test_an_error_far_in_names_its_place(served: Served) -> None:
    lists = [[5] * 100 for _ in range(1000)]
    lists[777] = [5, 999]
    assert refused(served.post("/decode", {"ids": lists}), 422, "Tokenizer").startswith("ids: list 777 has the id 999, which no token has")


def test_many_empty_texts(served: Served) -> None:
    tokens = served.post("/tokenize", {"inputs": [""] * 2048, "prompt_name": "query"}).json
    assert tokens == served.post("/tokenize", {"inputs": "", "prompt_name": "query"}).json * 2048
    assert served.post("/decode", {"ids": [[]] * 2048}).json == [""] * 2048


def test_more_than_is_tokenized_at_once(served: Served) -> None:
    text = "a" * (tei_tokens.MOST_CHARACTERS // 2)
    refused(served.post("/tokenize", {"inputs": [text, text, "a"]}), 413)
    refused(served.post("/decode", {"ids": [5] * (tei_tokens.MOST_IDS + 1)}), 413)
    refused(served.post("/decode", b'{"ids": [' + b"5," * 10**6 + b"5]}"), 413)


def test_decode(served: Served) -> None:
    (tokens,) = served.encoder.tokens(["the cat sleeps"], prompt="")
    ids = list(tokens.ids)
    assert served.post("/decode", {"ids": ids}).json == ["the cat sleeps"]
    assert served.post("/decode", {"ids": [ids, [], ids[1:2]]}).json == ["the cat sleeps", "", "the"]
    assert served.post("/decode", {"ids": ids, "skip_special_tokens": False}).json == ["[CLS] the cat sleeps [SEP]"]
    assert served.post("/decode", {"ids": ids, "skip_special_tokens": None}).json == ["the cat sleeps"]


def test_info(served: Served, serve: Callable[..., Served], make_bundle: Callable[..., Path], bundle: Path) -> None:
    encoder = served.encoder
    info = served.get("/info").json
    assert info["model_type"]["classifier"]["id2label"] == {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
    assert info | {"model_type": None} == {
        "model_id": "tiny",
        "served_model_name": "tiny",
        "model_sha": None,
        "model_dtype": "float32",
        "model_type": None,
        "max_concurrent_requests": None,
        "max_input_length": 16,
        "max_batch_tokens": encoder.info.token_budget,
        "max_batch_requests": None,
        "max_client_batch_size": 2048,
        "auto_truncate": True,
        "tokenization_workers": encoder.info.workers,
        "version": cls_runtime.__version__,
        "sha": None,
        "docker_label": None,
        "fingerprint": encoder.manifest.fingerprint,
        "variant": "fp32",
        "engine": encoder.info.engine,
        "dimensions": 8,
        "prompts": ["query", "document"],
        "models": ["tiny"],
    }
    two = serve(make_bundle(outputs=("sentence_embedding",), pooling="mean"), bundle, model_names=("one", "two"), on_overflow="raise")
    assert two.get("/info").json["model_type"] == {"embedding": {"pooling": "mean"}}
    assert two.get("/info").json["auto_truncate"] is False
    assert list(two.get("/info?model=two").json["model_type"]) == ["classifier"]
    assert two.get("/info").json["models"] == ["one", "two"]
    refused(two.get("/info?model=three"), 404)


def test_a_bundle_by_its_name(serve: Callable[..., Served], trained: Path, bundle: Path) -> None:
    server = serve(trained, bundle, model_names=("one", "two"))
    for name, encoder in zip(("one", "two"), (model.encoder for model in server.service.models.all), strict=True):
        answers = [
            server.post("/embed", {"inputs": "the cat", "model": name}),
            server.post("/tokenize", {"inputs": "the cat", "model": name}),
            server.post("/decode", {"ids": [5], "model": name}),
        ]
        assert rows(answers[0]).tobytes() == encoder.encode(["the cat"], normalize=True).tobytes()
        assert [token["id"] for token in answers[1].json[0]] == list(encoder.tokens(["the cat"])[0].ids)
        assert [answer.headers["x-cls-fingerprint"] for answer in answers] == [encoder.manifest.fingerprint] * 3


@given(
    texts=st.lists(ANY_TEXT, min_size=1, max_size=20),
    normalize=st.sampled_from([True, False, None]),
    prompt_name=st.sampled_from(["query", "document", None]),
    dimensions=st.sampled_from([4, 8, None]),
    side=st.sampled_from(["left", "Right", None]),
)
def test_any_text_and_options(
    served: Served, texts: list[str], normalize: bool | None, prompt_name: str | None, dimensions: int | None, side: str | None
) -> None:
    options = {"prompt_name": prompt_name, "dimensions": dimensions}
    answer = served.post("/embed", {"inputs": texts, "normalize": normalize, "truncation_direction": side} | options)
    expected = served.encoder.encode(texts, normalize=normalize is not False, truncation_side=side and side.lower(), **options)
    assert rows(answer).tobytes() == expected.tobytes()


@given(texts=st.lists(ANY_TEXT, min_size=1, max_size=5))
def test_the_tokens_of_any_text_are_where_they_say(served: Served, texts: list[str]) -> None:
    answer = served.post("/tokenize", {"inputs": texts, "prompt_name": "query"}).json
    expected = served.encoder.tokens(texts, prompt_name="query", whole=True)
    for text, found, tokens in zip(texts, answer, expected, strict=True):
        assert [token["id"] for token in found] == list(tokens.ids)
        assert all(token["text"] == f"the cat, {text}"[token["start"] : token["stop"]] for token in found if not token["special"])
