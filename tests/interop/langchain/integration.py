"""LangChain: `ClsEmbeddings`, alone and in an in-memory vector store."""

import asyncio

import numpy as np
from integration_results import BUNDLE, NO_LISTS, NO_TEXTS, QUERIES, TEXTS, encoder, expected, ranking, refused, same
from langchain_core.vectorstores import InMemoryVectorStore

from cls_runtime import UsageError
from cls_runtime.integrations.langchain import ClsEmbeddings


async def in_a_loop() -> None:
    for made, options in OPTIONS:
        same(await made.aembed_documents(TEXTS), expected(TEXTS, **options))
        same([await made.aembed_query(query) for query in QUERIES], expected(QUERIES, query=True, **options))
    asked = await asyncio.gather(*map(embeddings.aembed_query, QUERIES * 20), embeddings.aembed_documents(TEXTS * 500))
    same(asked[:-1], expected(QUERIES * 20, query=True))
    same(asked[-1], expected(TEXTS * 500))
    assert await embeddings.aembed_documents([]) == []
    for given in NO_LISTS:
        with refused(TypeError, words="expected"):
            await embeddings.aembed_documents(given)
    for given in NO_TEXTS:
        with refused(TypeError, words="expected"):
            await embeddings.aembed_query(given)
    found = await InMemoryVectorStore.afrom_texts(TEXTS, embeddings)
    assert [document.page_content for document in await found.asimilarity_search(QUERIES[0], k=5)] == ranking(QUERIES[0])


embeddings = ClsEmbeddings(str(BUNDLE))
OPTIONS = [
    (embeddings, {}),
    (ClsEmbeddings(encoder, normalize=False), {"normalize": False}),
    (ClsEmbeddings(encoder, dimensions=4), {"dimensions": 4}),
    (ClsEmbeddings(encoder, output="pooler"), {"output": "pooler"}),
    (ClsEmbeddings(encoder, query_prefix="the ", document_prefix="the "), {"prompt": "the "}),
]
for made, options in OPTIONS:
    same(made.embed_documents(TEXTS), expected(TEXTS, **options))
    same([made.embed_query(query) for query in QUERIES], expected(QUERIES, query=True, **options))
assert embeddings.embed_documents([]) == []
assert {type(number) for number in embeddings.embed_query("x")} == {float}
for given in NO_LISTS:
    with refused(TypeError, words="expected"):
        embeddings.embed_documents(given)
for given in NO_TEXTS:
    with refused(TypeError, words="expected"):
        embeddings.embed_query(given)
with refused(UsageError, words="dimensions is 9"):
    ClsEmbeddings(BUNDLE, dimensions=9)
with refused(UsageError, words="expected its folder"):
    ClsEmbeddings(3)
store = InMemoryVectorStore.from_texts(TEXTS, embeddings)
for query in QUERIES:
    assert [document.page_content for document in store.similarity_search(query, k=5)] == ranking(query)
asyncio.run(in_a_loop())
assert np.isfinite(embeddings.embed_query("")).all()
