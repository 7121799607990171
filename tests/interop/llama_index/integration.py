"""LlamaIndex: `ClsEmbedding`, alone and in a vector index."""

import asyncio
import json
import pickle

from integration_results import BUNDLE, NO_LISTS, NO_TEXTS, QUERIES, TEXTS, encoder, expected, ranking, refused, same
from llama_index.core import Document, VectorStoreIndex
from llama_index.core.embeddings import BaseEmbedding
from llama_index.core.storage.kvstore import SimpleKVStore

from cls_runtime import BundleError, Encoder, UsageError
from cls_runtime.integrations.llama_index import ClsEmbedding


async def in_a_loop() -> None:
    for made, options in OPTIONS:
        same(await made.aget_text_embedding_batch(TEXTS), expected(TEXTS, **options))
        same([await made.aget_text_embedding(TEXTS[0])], expected(TEXTS[:1], **options))
        same([await made.aget_query_embedding(query) for query in QUERIES], expected(QUERIES, query=True, **options))
    assert await embedding.aget_text_embedding_batch([]) == []
    # Twice what may wait in the encoder's queue, in batches that are started together.
    many = [f"{text} {number}" for number in range(3500) for text in TEXTS]
    same(await embedding.aget_text_embedding_batch(many), expected(many))
    for given in NO_LISTS:
        with refused(TypeError, words="expected"):
            await embedding.aget_text_embedding_batch(given)
    for given in NO_TEXTS:
        with refused(TypeError, words="expected"):
            await embedding.aget_query_embedding(given)
    found = await index.as_retriever(similarity_top_k=5).aretrieve(QUERIES[1])
    assert [node.text for node in found] == ranking(QUERIES[1])


embedding = ClsEmbedding(str(BUNDLE))
assert isinstance(embedding, BaseEmbedding)
OPTIONS = [
    (embedding, {}),
    (ClsEmbedding(encoder, embed_batch_size=2, num_workers=None, normalize=False), {"normalize": False}),
    (ClsEmbedding(BUNDLE, dimensions=4), {"dimensions": 4}),
    (ClsEmbedding(encoder, output="pooler"), {"output": "pooler"}),
    (ClsEmbedding(encoder, query_instruction="the ", text_instruction="the "), {"prompt": "the "}),
]
for made, options in OPTIONS:
    same(made.get_text_embedding_batch(TEXTS), expected(TEXTS, **options))
    same([made.get_text_embedding(TEXTS[0])], expected(TEXTS[:1], **options))
    same([made.get_query_embedding(query) for query in QUERIES], expected(QUERIES, query=True, **options))
    stored = made.to_dict()
    assert stored["model_name"] == (str(BUNDLE) if made in (embedding, OPTIONS[2][0]) else encoder.bundle.name)
    assert stored["variant"] == "fp32"
    assert stored["class_name"] == "ClsEmbedding"
    for again in (ClsEmbedding.from_dict(stored), ClsEmbedding.from_json(made.to_json()), pickle.loads(pickle.dumps(made))):
        assert json.dumps(again.to_dict()) == json.dumps(stored)
        same([again.get_query_embedding(query) for query in QUERIES], expected(QUERIES, query=True, **options))
assert embedding.get_text_embedding_batch([]) == []
for given in NO_LISTS:
    with refused(TypeError, words="expected"):
        embedding.get_text_embedding_batch(given)
for given in NO_TEXTS:
    with refused(TypeError, words="expected"):
        embedding.get_query_embedding(given)
    with refused(TypeError, words="expected"):
        embedding.get_text_embedding(given)
with refused(UsageError, words="dimensions is 9"):
    ClsEmbedding(BUNDLE, dimensions=9)
with refused(UsageError, words="the Encoder computes 'fp32'"):
    ClsEmbedding(encoder, variant="int8")
with refused(UsageError, words="one vector per text"):
    ClsEmbedding(encoder, embeddings_cache=SimpleKVStore())
with refused(BundleError):
    ClsEmbedding("models/nothing")
cached = ClsEmbedding(encoder, query_instruction="", text_instruction="", embeddings_cache=SimpleKVStore())
for _ in range(2):
    same([cached.get_query_embedding(TEXTS[0])], expected(TEXTS[:1], prompt=""))
    same(cached.get_text_embedding_batch(TEXTS), expected(TEXTS, prompt=""))

index = VectorStoreIndex.from_documents([Document(text=text) for text in TEXTS], embed_model=embedding, transformations=[])
for query in QUERIES:
    found = index.as_retriever(similarity_top_k=5).retrieve(query)
    assert [node.text for node in found] == ranking(query)
asyncio.run(in_a_loop())
with Encoder.load(BUNDLE) as closed:
    gone = ClsEmbedding(closed)
with refused(Exception, words="closed"):
    gone.get_query_embedding("x")
