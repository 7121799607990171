"""/predict: texts, pairs and batches of them, each label with its score; and what InferenceClient asks for at POST /."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_builder import build_bundle
from hypothesis import given
from hypothesis import strategies as st
from served import Served

LABELS = ("anger", "joy", "fear")
LONG = "the dog sleeps " * 20
Texts = list[str | tuple[str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Of a bundle with three labels, whose activation is what sentence-transformers takes where nobody names one."""
    folder = build_bundle(tmp_path_factory.mktemp("bundle") / "classifier", labels=LABELS, logits_activation="identity")
    with Served.of(folder, model_names=("moods",)) as server:
        yield server


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def sigmoid(logits: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


def expected(server: Served, texts: Texts, function: Callable[[np.ndarray], np.ndarray] = softmax) -> list[list[dict[str, Any]]]:
    """What is to come, of the Encoder's logits."""
    scores = function(server.encoder.encode(texts, output="logits", on_overflow="truncate"))
    return [
        [{"label": LABELS[place], "score": pytest.approx(row[place], rel=1e-5)} for place in np.argsort(-row, kind="stable")]
        for row in scores
    ]


@pytest.mark.parametrize(
    ("inputs", "texts", "is_batch"),
    [
        ("the cat", ["the cat"], False),
        ("", [""], False),
        (["the cat"], ["the cat"], False),
        (["the cat", "a dog"], [("the cat", "a dog")], False),
        ([["the cat"]], ["the cat"], True),
        ([["the cat", "a dog"]], [("the cat", "a dog")], True),
        ([["the cat"], ["a dog", "runs"], ["the cat"]], ["the cat", ("a dog", "runs"), "the cat"], True),
        (["the cat", ["a dog", "runs"]], ["the cat", ("a dog", "runs")], True),
    ],
)
def test_a_text_a_pair_or_a_batch(server: Served, inputs: Any, texts: Texts, is_batch: bool) -> None:
    answer = server.post("/predict", {"inputs": inputs})
    assert answer.status == 200
    assert answer.json == (expected(server, texts) if is_batch else expected(server, texts)[0])
    at_root = server.post("/", {"inputs": inputs})
    assert at_root.json == expected(server, texts)
    assert answer.headers["x-compute-tokens"] == str(sum(len(found.ids) for found in server.encoder.tokens(texts)))


def test_raw_scores_are_the_logits(server: Served) -> None:
    answer = server.post("/predict", {"inputs": "the cat", "raw_scores": True})
    assert answer.json == expected(server, ["the cat"], lambda logits: logits)[0]
    assert server.post("/predict", {"inputs": "the cat", "raw_scores": None}).json == expected(server, ["the cat"])[0]


@pytest.mark.parametrize("path", ["/", "/predict"])
def test_what_inference_client_asks_for(server: Served, path: str) -> None:
    functions = {"sigmoid": sigmoid, "softmax": softmax, "none": lambda logits: logits, None: softmax}
    for name, function in functions.items():
        answer = server.post(path, {"inputs": [["the cat"]], "parameters": {"function_to_apply": name, "top_k": 2}})
        assert answer.json == [expected(server, ["the cat"], function)[0][:2]]
    assert server.post(path, {"inputs": [["the cat"]], "parameters": {}}).json == expected(server, ["the cat"])
    for wrong in ({"top_k": 0}, {"function_to_apply": "relu"}):
        answer = server.post(path, {"inputs": "a", "parameters": wrong})
        assert (answer.status, answer.json["error_type"]) == (422, "Validation")


def test_one_label_is_a_sigmoid(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    server = serve(make_bundle(label_count=1))
    ((logit,),) = server.encoder.encode([("the cat", "a dog")], output="logits")
    answer = server.post("/predict", {"inputs": ["the cat", "a dog"]}).json
    assert answer == [{"label": "LABEL_0", "score": pytest.approx(sigmoid(logit), rel=1e-6)}]


@pytest.mark.parametrize(
    ("activation", "function"),
    [(None, softmax), ("softmax", softmax), ("sigmoid", sigmoid), ("tanh", np.tanh), ("relu", lambda x: np.maximum(x, 0))],
)
def test_the_activation_that_the_bundle_names(
    serve: Callable[..., Served], make_bundle: Callable[..., Path], activation: str | None, function: Callable[[np.ndarray], np.ndarray]
) -> None:
    server = serve(make_bundle(logits_activation=activation, labels=LABELS))
    answer = server.post("/predict", {"inputs": [["the cat"], ["a dog", "runs"]]})
    assert answer.json == expected(server, ["the cat", ("a dog", "runs")], function)


def test_labels_that_do_not_fit_have_transformers_names(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    server = serve(make_bundle(labels=("one", "two")))
    answer = server.post("/predict", {"inputs": "the cat"})
    assert {item["label"] for item in answer.json} == {"LABEL_0", "LABEL_1", "LABEL_2"}


def test_what_is_cut_is_seen(server: Served) -> None:
    answer = server.post("/predict", {"inputs": [["cat"], [LONG], ["cat", LONG]]})
    assert (answer.status, answer.headers["x-cls-truncated"]) == (200, "2")
    assert answer.json == expected(server, ["cat", LONG, ("cat", LONG)])
    for wrong in (LONG, ["cat", LONG]):
        assert server.post("/predict", {"inputs": wrong, "truncate": False}).status == 422
    left = server.post("/predict", {"inputs": LONG + "xyz", "truncation_direction": "Left", "raw_scores": True}).json
    rows = server.encoder.encode([LONG + "xyz"], output="logits", truncation_side="left", on_overflow="truncate")
    assert sorted(item["score"] for item in left) == pytest.approx(sorted(rows[0].tolist()), rel=1e-5)


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"inputs": []}, 400, "empty list"),
        ({"inputs": ["a", "b", "c"]}, 422, "list of 3 strings"),
        ({"inputs": [["a"], []]}, 422, "list of 0 strings"),
        ({"inputs": [["a", "b", "c"]]}, 422, "[[text], [text, second text], ...]"),
        ({"inputs": [1, 2]}, 400, "token ids"),
        ({"inputs": [[1, 2]]}, 400, "token ids"),
        ({"inputs": None}, 400, "inputs"),
        ({}, 400, "inputs"),
        ({"inputs": "a", "model": "other"}, 404, "moods"),
        ({"inputs": "a", "raw_scores": "yes"}, 400, "raw_scores"),
        ({"inputs": "a", "truncation_direction": "up"}, 422, "truncation_direction is 'up'"),
        ({"inputs": "a", "prompt_name": "none such"}, 422, "none such"),
        ({"inputs": [["a"]] * 2049}, 413, "2,049"),
    ],
)
def test_refused(server: Served, body: dict[str, Any], status: int, words: str) -> None:
    for path in ("/predict", "/"):
        answer = server.post(path, body)
        assert (answer.status, set(answer.json)) == (status, {"error", "error_type"})
        assert words in answer.json["error"]


def test_a_bundle_without_logits_is_424(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    server = serve(make_bundle(outputs=("sentence_embedding",)))
    answer = server.post("/predict", {"inputs": "a"})
    assert (answer.status, answer.json["error_type"]) == (424, "Backend")
    assert "has no logits" in answer.json["error"]
    assert "--logits" in answer.json["error"]


TEXT = st.text(max_size=40)


@given(inputs=st.lists(st.lists(TEXT, min_size=1, max_size=2), min_size=1, max_size=10), raw=st.booleans())
def test_any_batch_is_what_the_encoder_says(server: Served, inputs: list[list[str]], raw: bool) -> None:
    texts: Texts = [item[0] if len(item) == 1 else (item[0], item[1]) for item in inputs]
    scores = server.encoder.encode(texts, output="logits", on_overflow="truncate")
    answer = server.post("/predict", {"inputs": inputs, "raw_scores": raw})
    assert answer.status == 200
    for found, row in zip(answer.json, scores if raw else softmax(scores), strict=True):
        assert [item["score"] for item in found] == sorted((item["score"] for item in found), reverse=True)
        by_label = {item["label"]: item["score"] for item in found}
        np.testing.assert_allclose([by_label[label] for label in LABELS], row, rtol=1e-5, atol=1e-6)
