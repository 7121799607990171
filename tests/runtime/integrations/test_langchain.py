"""`ClsEmbeddings`, here with a stand-in for LangChain's base class; `make interop` runs it with langchain-core itself."""

from __future__ import annotations

import asyncio
import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from hub_server import Hub, files_of_folder

from cls_runtime import Encoder, UsageError

TEXTS = ["the cat sleeps", "", "rain"]


class StandIn(ABC):
    """The two methods that langchain-core's Embeddings asks for."""

    @abstractmethod
    def embed_documents(self, texts: list[str]) -> list[list[float]]: ...

    @abstractmethod
    def embed_query(self, text: str) -> list[float]: ...


@pytest.fixture
def langchain(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    embeddings = ModuleType("langchain_core.embeddings")
    embeddings.Embeddings = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "langchain_core", ModuleType("langchain_core"))
    monkeypatch.setitem(sys.modules, "langchain_core.embeddings", embeddings)
    yield importlib.import_module("cls_runtime.integrations.langchain")
    sys.modules.pop("cls_runtime.integrations.langchain", None)


def test_documents_and_queries(langchain: ModuleType, bundle: Path) -> None:
    with Encoder.load(bundle, threads=1) as encoder:
        embeddings = langchain.ClsEmbeddings(encoder, normalize=True)
        assert isinstance(embeddings, StandIn)
        vectors = embeddings.embed_documents(TEXTS)
        assert {type(value) for vector in vectors for value in vector} == {float}
        np.testing.assert_allclose(vectors, encoder.encode(TEXTS, normalize=True), atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_query("rain"), vectors[2], atol=1e-6)
        assert embeddings.embed_documents([]) == []


def test_the_bundles_own_prompts_go_before_their_own_kind(langchain: ModuleType, trained: Path) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        embeddings = langchain.ClsEmbeddings(encoder)
        query, document = encoder.encode(["the cat, rain", "a dog: rain"], prompt="")
        np.testing.assert_allclose(np.linalg.norm(query), 1, atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_query("rain"), query, atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_documents(["rain"])[0], document, atol=1e-6)
        plain = langchain.ClsEmbeddings(encoder, query_prefix="", document_prefix="the ")
        np.testing.assert_allclose(plain.embed_query("rain"), encoder.encode(["rain"], prompt="")[0], atol=1e-6)
        np.testing.assert_allclose(plain.embed_documents(["rain"])[0], encoder.encode(["the rain"], prompt="")[0], atol=1e-6)


def test_the_asynchronous_methods_give_the_same(langchain: ModuleType, trained: Path) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        embeddings = langchain.ClsEmbeddings(encoder, query_prefix="a ")

        async def ask() -> list[list[float]]:
            return [*await embeddings.aembed_documents(TEXTS), *await asyncio.gather(*map(embeddings.aembed_query, TEXTS))]

        expected = [*embeddings.embed_documents(TEXTS), *map(embeddings.embed_query, TEXTS)]
        np.testing.assert_allclose(asyncio.run(ask()), expected, atol=1e-6)


def test_dimensions(langchain: ModuleType, trained: Path) -> None:
    with Encoder.load(trained, threads=1) as encoder:
        embeddings = langchain.ClsEmbeddings(encoder, dimensions=4)
        np.testing.assert_allclose(embeddings.embed_documents(TEXTS), encoder.encode_document(TEXTS, dimensions=4), atol=1e-6)
        assert len(embeddings.embed_query("rain")) == 4
        with pytest.raises(UsageError, match="dimensions is 9, the vectors of this bundle have 8"):
            langchain.ClsEmbeddings(encoder, dimensions=9)


def test_prefixes_go_before_their_own_kind(langchain: ModuleType, bundle: Path) -> None:
    with Encoder.load(bundle, threads=1) as encoder:
        embeddings = langchain.ClsEmbeddings(encoder, normalize=False, query_prefix="the ", document_prefix="cat ")
        expected = encoder.encode(["the rain", "cat rain"])
        np.testing.assert_allclose(embeddings.embed_query("rain"), expected[0], atol=1e-6)
        np.testing.assert_allclose(embeddings.embed_documents(["rain"])[0], expected[1], atol=1e-6)
        assert np.abs(expected[0] - expected[1]).max() > 1e-3


@pytest.mark.parametrize("output", ["sentence", "cls", "pooler", "logits"])
def test_unit_length_is_the_models_choice_unless_said(langchain: ModuleType, trained: Path, output: str) -> None:
    """Only a sentence's vector is trained to have it."""
    with Encoder.load(trained, threads=1) as encoder:
        for normalize, has in ((None, output in ("sentence", "cls")), (True, True), (False, False)):
            vectors = langchain.ClsEmbeddings(encoder, output=output, normalize=normalize).embed_documents(["the cat sleeps", "rain"])
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6) == has


def test_an_output_that_is_not_there_is_told_at_once(langchain: ModuleType, bundle: Path) -> None:
    with Encoder.load(bundle, threads=1) as encoder, pytest.raises(UsageError, match="output is 'tokens'"):
        langchain.ClsEmbeddings(encoder, output="tokens")


@pytest.mark.parametrize("texts", ["a text", {"a": "b"}, {"a"}, [("a", "b")], [3], b"a"])
def test_what_is_no_list_of_str_is_a_type_error(langchain: ModuleType, bundle: Path, texts: object) -> None:
    """A str iterates over its characters: each would get a vector."""
    embeddings = langchain.ClsEmbeddings(bundle, document_prefix="passage: ")
    with pytest.raises(TypeError, match="expected"):
        embeddings.embed_documents(texts)
    with pytest.raises(TypeError, match="expected"):
        embeddings.embed_query(texts if not isinstance(texts, str) else ("a", "b"))
    with pytest.raises(TypeError, match="expected"):
        asyncio.run(embeddings.aembed_documents(texts))


def test_a_name_of_the_hub(langchain: ModuleType, bundle: Path, hub: Hub) -> None:
    hub.add("org/tiny", files_of_folder(bundle))
    query = langchain.ClsEmbeddings(str(bundle)).embed_query("a dog")
    assert langchain.ClsEmbeddings("org/tiny").embed_query("a dog") == pytest.approx(query)
