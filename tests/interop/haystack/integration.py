"""Haystack: `ClsTextEmbedder` and `ClsDocumentEmbedder`, alone and in a pipeline with an in-memory store."""

import asyncio
import json

from haystack import Document, Pipeline
from haystack.components.retrievers.in_memory import InMemoryEmbeddingRetriever
from haystack.components.writers import DocumentWriter
from haystack.document_stores.in_memory import InMemoryDocumentStore
from integration_results import BUNDLE, NO_TEXTS, QUERIES, TEXTS, encoder, expected, ranking, refused, same

from cls_runtime import BundleError, UsageError
from cls_runtime.integrations.haystack import ClsDocumentEmbedder, ClsTextEmbedder

documents = [Document(content=text, meta={"title": text[:3], "year": 1, "none": None}) for text in TEXTS]
NO_DOCUMENTS = ["a text", None, ["a text"], [None], documents[0], [documents[0], "a text"]]


def rows(answer):
    assert [document.id for document in answer["documents"]] == [document.id for document in documents]
    assert all(document.embedding is None for document in documents)
    return [document.embedding for document in answer["documents"]]


async def in_a_loop() -> None:
    for model in (encoder, str(BUNDLE)):  # the second is loaded by its first run
        same(rows(await ClsDocumentEmbedder(model).run_async(documents=documents)), expected(TEXTS))
        same([(await ClsTextEmbedder(model).run_async(text="a dog"))["embedding"]], expected(["a dog"], query=True))
    assert await ClsDocumentEmbedder(encoder).run_async(documents=[]) == {"documents": []}
    for given in NO_DOCUMENTS:
        with refused(TypeError, words="haystack.Document"):
            await ClsDocumentEmbedder(encoder).run_async(documents=given)
    for given in NO_TEXTS:
        with refused(TypeError, words="expected"):
            await ClsTextEmbedder(encoder).run_async(text=given)
    searching = Pipeline()
    searching.add_component("embedder", ClsTextEmbedder(str(BUNDLE)))
    searching.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=5))
    searching.connect("embedder.embedding", "retriever.query_embedding")
    found = await searching.run_async({"embedder": {"text": QUERIES[1]}})
    assert [document.content for document in found["retriever"]["documents"]] == ranking(QUERIES[1])


for options in ({}, {"normalize": False}, {"dimensions": 4}, {"output": "pooler"}):
    same(rows(ClsDocumentEmbedder(BUNDLE, **options).run(documents=documents)), expected(TEXTS, **options))
    same([ClsTextEmbedder(encoder, **options).run(text="rain")["embedding"]], expected(["rain"], query=True, **options))
same([ClsTextEmbedder(encoder, prefix="the ", suffix=" sleeps").run(text="dog")["embedding"]], expected(["the dog sleeps"], prompt=""))
same([ClsTextEmbedder(encoder, prefix="").run(text="dog")["embedding"]], expected(["dog"], prompt=""))
with_meta = ClsDocumentEmbedder(
    encoder, prefix="a ", suffix=".", meta_fields_to_embed=["title", "missing", "none", "year"], embedding_separator=" : "
)
same(rows(with_meta.run(documents=documents)), expected([f"a {text[:3]} : 1 : {text}." for text in TEXTS], prompt=""))
with refused(TypeError, words="expected a list"):
    ClsDocumentEmbedder(encoder, meta_fields_to_embed="title")
assert ClsDocumentEmbedder(encoder).run(documents=[]) == {"documents": []}
same([ClsDocumentEmbedder(encoder).run(documents=[Document(content=None)])["documents"][0].embedding], expected([""]))
for given in NO_DOCUMENTS:
    with refused(TypeError, words="haystack.Document"):
        ClsDocumentEmbedder(encoder).run(documents=given)
for given in NO_TEXTS:
    with refused(TypeError, words="expected"):
        ClsTextEmbedder(encoder).run(text=given)
with refused(UsageError, words="output is 'tokens'"):
    ClsTextEmbedder(BUNDLE, output="tokens")
with refused(UsageError, words="dimensions is 9"):
    ClsTextEmbedder(BUNDLE, dimensions=9).warm_up()
unloaded = ClsTextEmbedder("models/nothing")
with refused(BundleError):
    unloaded.warm_up()

for made, variant in (
    (with_meta, "fp32"),
    (unloaded, "auto"),
    (ClsTextEmbedder(BUNDLE, prefix="a ", dimensions=4, normalize=False), "auto"),
):
    stored = json.loads(json.dumps(made.to_dict()))
    again = type(made).from_dict(stored)
    assert again.to_dict() == stored
    assert stored["init_parameters"]["variant"] == variant
copied = ClsDocumentEmbedder.from_dict(with_meta.to_dict())
assert rows(copied.run(documents=documents)) == rows(with_meta.run(documents=documents))

store = InMemoryDocumentStore(embedding_similarity_function="cosine")
indexing = Pipeline()
indexing.add_component("embedder", ClsDocumentEmbedder(str(BUNDLE)))
indexing.add_component("writer", DocumentWriter(store))
indexing.connect("embedder.documents", "writer.documents")
indexing.run({"embedder": {"documents": documents}})
same([document.embedding for text in TEXTS for document in store.filter_documents() if document.content == text], expected(TEXTS))
searching = Pipeline()
searching.add_component("embedder", ClsTextEmbedder(str(BUNDLE)))
again = Pipeline.loads(searching.dumps(), allowed_modules=["cls_runtime.integrations.haystack"])
again.add_component("retriever", InMemoryEmbeddingRetriever(store, top_k=5))
again.connect("embedder.embedding", "retriever.query_embedding")
for query in QUERIES:
    found = again.run({"embedder": {"text": query}})
    assert [document.content for document in found["retriever"]["documents"]] == ranking(query)
asyncio.run(in_a_loop())
