"""/rerank in each of its forms, /v1/rerank and /v2/rerank: scores, order, what is cut, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bundle_builder import build_bundle
from each_text import with_token
from hypothesis import given
from hypothesis import strategies as st
from served import Served
from watched_engine import WatchedEngine

from cls_runtime import Bundle, Encoder, EncoderOptions

QUERY = "the cat"
TEXTS = ["a dog runs", "the cat sleeps", "", "dog", "the cat", "xyz 42"]
LONG = "the dog sleeps " * 20
PATHS = ("/rerank", "/v1/rerank", "/v2/rerank")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with one logit, which names no activation."""
    return build_bundle(tmp_path_factory.mktemp("bundle") / "reranker", label_count=1)


@pytest.fixture(scope="module")
def server(reranker: Path) -> Iterator[Served]:
    with Served.of(reranker, model_names=("ranks",)) as server:
        yield server


def logits(server: Served, texts: list[str], query: str = QUERY) -> np.ndarray:
    """The oracle: the Encoder's own."""
    rows: np.ndarray = server.encoder.encode([(query, text) for text in texts], output="logits")
    return rows[:, 0].astype(np.float64)


def sigmoid(numbers: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-numbers))


def test_tei_texts_by_score(server: Served) -> None:
    answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    expected = sigmoid(logits(server, TEXTS))
    assert [rank["index"] for rank in answer.json] == np.argsort(-expected).tolist()
    np.testing.assert_allclose([rank["score"] for rank in answer.json], np.sort(expected)[::-1], rtol=1e-6)
    assert all(set(rank) == {"index", "score"} for rank in answer.json)


def test_tei_options(server: Served) -> None:
    answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True, "return_text": True, "top_n": 2}).json
    expected = logits(server, TEXTS)
    first, second = np.argsort(-expected)[:2].tolist()
    assert answer == [
        {"index": first, "score": pytest.approx(expected[first], rel=1e-6), "text": TEXTS[first]},
        {"index": second, "score": pytest.approx(expected[second], rel=1e-6), "text": TEXTS[second]},
    ]
    nulls = dict.fromkeys(("raw_scores", "return_text", "truncate", "truncation_direction", "top_n", "model", "documents", "instruction"))
    assert (
        server.post("/rerank", {"query": QUERY, "texts": TEXTS, **nulls}).json
        == server.post("/rerank", {"query": QUERY, "texts": TEXTS}).json
    )


@pytest.mark.parametrize("path", PATHS)
def test_documents_as_jina_and_cohere_read_them(server: Served, path: str) -> None:
    documents: list[Any] = [TEXTS[0], {"text": TEXTS[1], "title": "t"}, *TEXTS[2:]]
    body = {"model": "ranks", "query": QUERY, "documents": documents, "return_documents": True, "top_n": 100}
    answer = server.post(path, body, headers=[("x-request-id", "r1")])
    assert answer.status == 200
    expected = sigmoid(logits(server, TEXTS))
    order = np.argsort(-expected).tolist()
    tokens = sum(len(found.ids) for found in server.encoder.tokens([(QUERY, text) for text in TEXTS]))
    assert answer.json == {
        "id": "r1",
        "model": "ranks",
        "results": [
            {"index": place, "relevance_score": pytest.approx(expected[place], rel=1e-6), "document": {"text": TEXTS[place]}}
            for place in order
        ],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": {
            "api_version": {"version": "2" if path == "/v2/rerank" else "1"},
            "billed_units": {"search_units": 1},
            "tokens": {"input_tokens": tokens},
        },
    }
    assert answer.headers["x-compute-tokens"] == str(tokens)
    bare = server.post(path, {"query": QUERY, "documents": TEXTS}).json
    assert all(set(result) == {"index", "relevance_score"} for result in bare["results"])
    assert bare["model"] == "ranks"


def test_equal_documents_keep_their_order_and_are_computed_once(reranker: Path) -> None:
    engine = WatchedEngine(Bundle.open(reranker), threads=1)
    seen: list[int] = []

    def around(run: Any, batch: Any, outputs: Any) -> Any:
        seen.append(batch.texts)
        return run(batch, outputs)

    engine.around = around
    encoder = Encoder.of(Bundle.open(reranker), engine, EncoderOptions())
    with Served.on(encoder) as server:
        texts = ["dog", "the cat"] * 50
        answer = server.post("/rerank", {"query": QUERY, "texts": texts}).json
        assert sum(seen) == 2
    places = [rank["index"] for rank in answer]
    first = places[0] % 2
    assert places == [*range(first, 100, 2), *range(1 - first, 100, 2)]
    assert len({rank["score"] for rank in answer}) == 2


def test_what_is_cut_is_seen(server: Served) -> None:
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": ["dog", LONG]})
    assert answer.status == 200
    assert answer.headers["x-cls-truncated"] == "1"
    assert answer.json["truncated"] == [1]
    assert answer.json["meta"]["warnings"] == ["1 of 2 texts have more than the 16 tokens that the model takes, and were cut"]
    tei = server.post("/rerank", {"query": QUERY, "texts": ["dog", LONG]})
    assert tei.headers["x-cls-truncated"] == "1"
    refused = server.post("/rerank", {"query": QUERY, "texts": ["dog", LONG], "truncate": False})
    assert refused.status == 422
    assert "text 1" in refused.json["error"]
    assert server.post("/v2/rerank", {"query": QUERY, "documents": [LONG], "truncate": False}).status == 400


def test_left_or_right(server: Served) -> None:
    texts = [LONG + "xyz", "cat"]
    scores = {}
    for side in ("Left", "left", "Right", "right"):
        answer = server.post("/rerank", {"query": QUERY, "texts": texts, "truncation_direction": side, "raw_scores": True})
        scores[side] = {rank["index"]: rank["score"] for rank in answer.json}
    expected = {
        side: server.encoder.encode([(QUERY, text) for text in texts], output="logits", truncation_side=side, on_overflow="truncate")[:, 0]
        for side in ("left", "right")
    }
    for side, found in scores.items():
        np.testing.assert_allclose([found[0], found[1]], expected[side.lower()], rtol=1e-6)
    assert scores["left"][0] != scores["right"][0]
    assert server.post("/rerank", {"query": QUERY, "texts": texts, "truncation_direction": "up"}).status == 422


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"query": QUERY, "texts": []}, 400, "texts is an empty list"),
        ({"query": QUERY, "documents": []}, 400, "documents is an empty list"),
        ({"query": QUERY}, 400, "either texts or documents, and not both"),
        ({"query": QUERY, "texts": ["a"], "documents": ["a"]}, 400, "either texts or documents, and not both"),
        ({"texts": ["a"]}, 400, "query"),
        ({"query": 5, "texts": ["a"]}, 400, "query"),
        ({"query": QUERY, "texts": "a"}, 400, "texts"),
        ({"query": QUERY, "texts": [1, 2]}, 400, "token ids"),
        ({"query": QUERY, "documents": [[1, 2]]}, 400, "token ids"),
        ({"query": QUERY, "documents": [{"image": "x"}]}, 400, "text"),
        ({"query": QUERY, "documents": ["a"], "top_n": 0}, 422, "top_n"),
        ({"query": QUERY, "documents": ["a"], "top_n": -1}, 422, "top_n"),
        ({"query": QUERY, "documents": ["a"], "top_n": "1"}, 400, "top_n"),
        ({"query": QUERY, "documents": ["a"], "model": "other"}, 404, "ranks"),
        ({"query": QUERY, "documents": ["a"], "rank_fields": ["title"]}, 422, "rank_fields"),
        ({"query": QUERY, "documents": ["a"], "max_tokens_per_doc": 8}, 422, "max_tokens_per_doc is 8, ranks cuts texts at 16"),
        ({"query": QUERY, "documents": ["a"], "max_chunks_per_doc": 10}, 422, "max_chunks_per_doc"),
        ({"query": QUERY, "documents": ["a"], "relevant_spans": {}}, 422, "relevant_spans"),
        ({"query": QUERY, "documents": ["a"], "instruction": "be kind"}, 422, "instruction"),
        ({"query": QUERY, "documents": ["a"], "prompt_name": "none such"}, 422, "none such"),
        ({"query": QUERY, "documents": ["a"] * 2049}, 413, "2,049"),
    ],
)
def test_refused(server: Served, body: dict[str, Any], status: int, words: str) -> None:
    answer = server.post("/rerank", body)
    assert (answer.status, set(answer.json)) == (status, {"error", "error_type"})
    assert words in answer.json["error"]
    if "texts" not in body and "documents" in body:
        elsewhere = server.post("/v1/rerank", body)
        assert elsewhere.status == (400 if status == 422 else status)
        assert words in elsewhere.json["message"] == elsewhere.json["error"]["message"]


def test_what_changes_nothing_is_taken(server: Served) -> None:
    body = {"query": QUERY, "documents": TEXTS}
    expected = server.post("/v2/rerank", body).json["results"]
    more = {
        "max_tokens_per_doc": 4096,
        "max_chunks_per_doc": 1,
        "rank_fields": ["text"],
        "priority": 3,
        "user": "me",
        "relevant_spans": None,
    }
    assert server.post("/v2/rerank", body | more).json["results"] == expected


def test_bundles_that_cannot(served: Served, plain_served: Served) -> None:
    """424 on TEI's path, 400 elsewhere."""
    for server, logit_words in ((served, "tiny has 3 logits"), (plain_served, "plain has 3 logits")):
        answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS})
        assert (answer.status, answer.json["error_type"]) == (424, "Backend")
        assert logit_words in answer.json["error"]
        for path in ("/v1/rerank", "/v2/rerank"):
            answer = server.post(path, {"query": QUERY, "documents": TEXTS})
            assert answer.status == 400
            assert logit_words in answer.json["message"]


def test_the_first_bundle_that_can(serve: Callable[..., Served], bundle: Path, reranker: Path, tmp_path: Path) -> None:
    vectors_only = build_bundle(tmp_path / "vectors", outputs=("sentence_embedding",))
    server = serve(vectors_only, bundle, reranker, model_names=("vectors", "labels", "ranks"))
    assert server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS}).json["model"] == "ranks"
    named = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": "ranks"})
    assert named.json["model"] == "ranks"
    for name, words in (("labels", "labels has 3 logits"), ("vectors", "vectors has no logits")):
        answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": name})
        assert (answer.status, answer.json["error"]["param"]) == (400, "model")
        assert words in answer.json["message"]
        assert "name ranks" in answer.json["message"]
    assert len(server.post("/predict", {"inputs": "a"}).json) == 3
    assert len(server.post("/predict", {"inputs": "a", "model": "ranks"}).json) == 1
    assert server.post("/predict", {"inputs": "a", "model": "vectors"}).status == 424
    assert server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": "other"}).status == 404


def test_any_name_is_the_first_that_can(serve: Callable[..., Served], bundle: Path, reranker: Path) -> None:
    server = serve(bundle, reranker, model_names=("*",))
    answer = server.post("/v1/rerank", {"query": QUERY, "documents": TEXTS, "model": "rerank-v3.5"})
    assert (answer.status, answer.json["model"]) == (200, "rerank-v3.5")
    assert answer.headers["x-cls-fingerprint"] == server.service.models.all[1].fingerprint


def test_a_long_query_beside_many_documents_is_too_large(serve: Callable[..., Served], reranker: Path) -> None:
    """A request is not to make a thousand times its own size of work."""
    server = serve(reranker, max_body_bytes=10_000)
    assert server.post("/rerank", {"query": "a" * 900, "texts": ["dog"] * 11}).status == 200
    for path, name in (("/rerank", "texts"), ("/v2/rerank", "documents")):
        answer = server.post(path, {"query": "a" * 900, name: ["dog"] * 12})
        assert answer.status == 413
        assert f"900 characters beside 12 {name}" in str(answer.json)


@pytest.mark.parametrize(
    ("activation", "function"),
    [
        (None, sigmoid),
        ("sigmoid", sigmoid),
        ("identity", lambda numbers: numbers),
        ("tanh", np.tanh),
        ("relu", lambda numbers: np.maximum(numbers, 0)),
        ("softmax", np.ones_like),
    ],
)
def test_the_activation_that_the_bundle_names(
    serve: Callable[..., Served], make_bundle: Callable[..., Path], activation: str | None, function: Callable[[np.ndarray], np.ndarray]
) -> None:
    server = serve(make_bundle(label_count=1, logits_activation=activation))
    answer = server.post("/rerank", {"query": QUERY, "texts": TEXTS}).json
    expected = function(logits(server, TEXTS))
    np.testing.assert_allclose([rank["score"] for rank in answer], [expected[rank["index"]] for rank in answer], rtol=1e-6)
    assert [rank["index"] for rank in answer] == np.argsort(-expected, kind="stable").tolist()


def test_a_prompt_goes_before_the_query(serve: Callable[..., Served], make_bundle: Callable[..., Path]) -> None:
    folder = make_bundle(label_count=1, max_length=64, prompts={"ask": "the dog, ", "plain": ""}, default_prompt_name="ask")
    server = serve(folder)

    def scores(**options: Any) -> list[float]:
        ranks = server.post("/rerank", {"query": QUERY, "texts": TEXTS, "raw_scores": True, **options}).json
        return [rank["score"] for rank in sorted(ranks, key=lambda rank: rank["index"])]

    pairs = [(f"the dog, {QUERY}", text) for text in TEXTS]
    np.testing.assert_allclose(scores(), server.encoder.encode(pairs, output="logits", prompt="")[:, 0], rtol=1e-6)
    assert scores() == scores(prompt_name="ask") != scores(prompt_name="plain")


def test_a_thousand_documents_beside_single_texts(server: Served) -> None:
    texts = [f"dog {index}" for index in range(1000)]
    ranking = server.start("POST", "/rerank", {"query": QUERY, "texts": texts})
    singles = [server.start("POST", "/rerank", {"query": QUERY, "texts": [text]}) for text in TEXTS]
    assert all(single.result(60).status == 200 for single in singles)
    answer = ranking.result(60)
    expected = sigmoid(logits(server, texts))
    found = {rank["index"]: rank["score"] for rank in answer.json}
    np.testing.assert_allclose([found[index] for index in range(1000)], expected, rtol=1e-5)
    scores = [rank["score"] for rank in answer.json]
    assert scores == sorted(scores, reverse=True)


@given(
    query=st.text(max_size=40),
    texts=st.lists(st.text(max_size=60), min_size=1, max_size=12),
    top_n=st.none() | st.integers(1, 20),
    raw=st.booleans(),
)
def test_any_texts_are_ranked_as_the_encoder_scores_them(
    server: Served, query: str, texts: list[str], top_n: int | None, raw: bool
) -> None:
    answer = server.post("/rerank", {"query": query, "texts": texts, "top_n": top_n, "raw_scores": raw})
    assert answer.status == 200
    rows = server.encoder.encode([(query, text) for text in texts], output="logits", on_overflow="truncate")[:, 0].astype(np.float64)
    expected = rows if raw else sigmoid(rows)
    found = [(rank["index"], rank["score"]) for rank in answer.json]
    assert len(found) == min(len(texts), top_n or len(texts)) == len({index for index, _ in found})
    np.testing.assert_allclose([score for _, score in found], [expected[index] for index, _ in found], rtol=1e-5, atol=1e-6)
    assert found == sorted(found, key=lambda item: (-item[1], item[0]))
    left_out = set(range(len(texts))) - {index for index, _ in found}
    assert all(expected[index] <= found[-1][1] + 1e-6 for index in left_out)


def test_scores_that_are_no_numbers_fail_their_request_alone(reranker: Path) -> None:
    engine = WatchedEngine(Bundle.open(reranker), threads=1)
    encoder = Encoder.of(Bundle.open(reranker), engine, EncoderOptions())
    question_mark = encoder.tokens(["?"])[0].ids[1]

    def around(run: Any, batch: Any, outputs: Any) -> Any:
        rows = run(batch, outputs)
        return [np.where(with_token(batch, question_mark)[:, None], np.float32("nan"), row) for row in rows]

    engine.around = around
    with Served.on(encoder) as server:
        asked = [server.start("POST", "/rerank", {"query": QUERY, "texts": ["dog", text]}) for text in ("cat", "?", "a", "?", "b")]
        answers = [future.result(60) for future in asked]
        assert [answer.status for answer in answers] == [200, 500, 200, 500, 200]
        assert answers[1].json["error_type"] == "Backend"
        assert server.post("/v1/rerank", {"query": "?", "documents": ["cat"]}).json["error"]["type"] == "server_error"
        assert server.post("/rerank", {"query": QUERY, "texts": TEXTS}).status == 200
