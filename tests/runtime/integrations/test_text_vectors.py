"""`TextVectors`, on which every integration stands."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from cls_runtime import BundleError, ClosedError, Encoder, OverloadedError, UsageError
from cls_runtime.integrations import text_vectors
from cls_runtime.integrations.text_vectors import TextVectors, single_text

TEXTS = ["the cat sleeps", "", "rain"]


@pytest.mark.parametrize("options", [{}, {"normalize": False}, {"dimensions": 4}, {"output": "pooler"}], ids=str)
def test_vectors_are_the_encoders_also_in_a_loop(trained: Path, options: dict[str, object]) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        vectors = TextVectors(encoder, **options)
        queries, documents = encoder.encode_query(TEXTS, **options), encoder.encode_document(TEXTS, **options)
        for given, expected in (
            (vectors.queries(TEXTS), queries),
            (vectors.documents(TEXTS), documents),
            (asyncio.run(vectors.aqueries(TEXTS)), queries),
            (asyncio.run(vectors.adocuments(TEXTS)), documents),
        ):
            assert given.dtype == np.float32
            np.testing.assert_allclose(given, expected, atol=1e-6)
        assert vectors.form.dimensions == documents.shape[1]
        assert np.abs(queries - documents).max() > 1e-3
        assert vectors.documents([]).shape == asyncio.run(vectors.aqueries([])).shape == (0, documents.shape[1])


def test_prompts_of_your_own_take_the_place_of_the_bundles(trained: Path) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        vectors = TextVectors(encoder, query_prompt="", document_prompt="the ")
        np.testing.assert_allclose(vectors.queries(TEXTS), encoder.encode(TEXTS, prompt=""), atol=1e-6)
        np.testing.assert_allclose(asyncio.run(vectors.adocuments(TEXTS)), encoder.encode(TEXTS, prompt="the "), atol=1e-6)
        assert vectors.tells_queries_apart
        assert TextVectors(encoder).tells_queries_apart
        assert not TextVectors(encoder, query_prompt="x", document_prompt="x").tells_queries_apart


def test_a_bundle_is_loaded_with_the_first_text_and_once(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[str] = []

    class Counted(Encoder):
        @classmethod
        def load(cls, path: object, **options: object) -> Encoder:  # type: ignore[override]
            loaded.append(str(path))
            return Encoder.load(path, threads=1, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(text_vectors, "Encoder", Counted)
    vectors = TextVectors(str(trained))
    assert (loaded, vectors.name, vectors.settings["variant"]) == ([], str(trained), "auto")
    threads = [threading.Thread(target=vectors.documents, args=(TEXTS,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    asyncio.run(vectors.aqueries(TEXTS))
    assert loaded == [str(trained)]
    assert vectors.settings["variant"] == "fp32"


def test_what_a_host_stores_makes_the_same_vectors_again(trained: Path) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        vectors = TextVectors(encoder, normalize=False, dimensions=np.int64(4))
        settings = json.loads(json.dumps(vectors.settings))
        assert settings == {"variant": "fp32", "output": "sentence", "normalize": False, "dimensions": 4}
        for again in (TextVectors(vectors.name, **settings), copy.deepcopy(vectors), pickle.loads(pickle.dumps(vectors))):
            np.testing.assert_array_equal(again.queries(TEXTS), vectors.queries(TEXTS))


def test_more_than_the_queue_takes_is_computed_in_a_thread(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [f"cat {number}" for number in range(50)]
    with Encoder.load(trained, threads=1, max_waiting_texts=10) as encoder:
        vectors = TextVectors(encoder)
        with pytest.raises(OverloadedError):
            asyncio.run(vectors.adocuments(texts))
        for name, limit in (("_MOST_TEXTS", 10), ("_MOST_CHARACTERS", 20)):
            with monkeypatch.context() as patch:
                patch.setattr(text_vectors, name, limit)
                np.testing.assert_allclose(asyncio.run(vectors.adocuments(texts)), vectors.documents(texts), atol=1e-6)


@pytest.mark.parametrize("texts", ["a text", None, [None], {"a": "b"}, {"a"}, [("a", "b")], [3], b"a"])
def test_what_is_no_list_of_str_is_a_type_error(trained: Path, texts: object) -> None:
    vectors = TextVectors(trained)
    for call in (vectors.queries, vectors.documents):
        with pytest.raises(TypeError, match="expected"):
            call(texts)
    for call in (vectors.aqueries, vectors.adocuments):
        with pytest.raises(TypeError, match="expected"):
            asyncio.run(call(texts))


def test_a_single_text_is_a_str() -> None:
    assert single_text("a") == "a"
    for given in (None, 3, ("a", "b"), ["a", "b"], b"a"):
        with pytest.raises(TypeError, match="text 0 is .* expected a str"):
            single_text(given)


def test_wrong_options_are_told_before_the_bundle_is_loaded() -> None:
    with pytest.raises(UsageError, match="output is 'tokens'"):
        TextVectors("nothing", output="tokens")
    with pytest.raises(UsageError, match="normalize is 1"):
        TextVectors("nothing", normalize=1)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="prompt is 3"):
        TextVectors("nothing", query_prompt=3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the bundle is a int, expected its folder"):
        TextVectors(3)  # type: ignore[arg-type]


def test_options_that_do_not_fit_the_bundle(trained: Path) -> None:
    for options in ({"dimensions": 9}, {"variant": "int8"}):
        with pytest.raises(UsageError):
            TextVectors(trained, **options).load()
    with pytest.raises(BundleError):
        TextVectors("nothing/here/at/all").load()
    with Encoder.load(trained, threads=1) as encoder:
        assert TextVectors(encoder, variant="fp32").encoder is encoder
        with pytest.raises(UsageError, match="the Encoder computes 'fp32'"):
            TextVectors(encoder, variant="int8")
        with pytest.raises(UsageError, match="dimensions is 9"):
            TextVectors(encoder, dimensions=9)
    vectors = TextVectors(encoder)
    with pytest.raises(ClosedError):
        vectors.queries(TEXTS)
    with pytest.raises(ClosedError):
        asyncio.run(vectors.aqueries(TEXTS))
