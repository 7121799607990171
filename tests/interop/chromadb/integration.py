"""Chroma: `ClsEmbeddingFunction`, alone and in collections in memory and on disk."""

import tempfile
import warnings

import chromadb
from integration_results import BUNDLE, NO_LISTS, QUERIES, TEXTS, encoder, expected, ranking, refused, same

from cls_runtime import BundleError, UsageError
from cls_runtime.integrations.chroma import ClsEmbeddingFunction

warnings.simplefilter("error")  # Chroma only warns of a function whose configuration it cannot store
function = ClsEmbeddingFunction(str(BUNDLE))
OPTIONS = [
    (function, {}),
    (ClsEmbeddingFunction(encoder, normalize=False), {"normalize": False}),
    (ClsEmbeddingFunction(BUNDLE, dimensions=4), {"dimensions": 4}),
    (ClsEmbeddingFunction(encoder, output="pooler"), {"output": "pooler"}),
    (ClsEmbeddingFunction(encoder, query_prefix="the ", document_prefix="the "), {"prompt": "the "}),
]
for made, options in OPTIONS:
    same(made(TEXTS), expected(TEXTS, **options))
    same(made.embed_query(QUERIES), expected(QUERIES, query=True, **options))
    assert not made.is_legacy()
    config = made.get_config()
    again = ClsEmbeddingFunction.build_from_config(config)
    assert again.get_config() == config
    assert config["variant"] == "fp32"
    same(again.embed_query(QUERIES), expected(QUERIES, query=True, **options))
assert function.default_space() in function.supported_spaces()
for given in NO_LISTS:
    with refused(TypeError, words="expected"):
        function(given)
    with refused(TypeError, words="expected"):
        function.embed_query(given)
with refused(UsageError, words="dimensions is 9"):
    ClsEmbeddingFunction(BUNDLE, dimensions=9)
with refused(BundleError):
    ClsEmbeddingFunction("models/nothing")
config = function.get_config()
function.validate_config_update(config, {**config, "model_name": "moved"})
with refused(UsageError, words="normalize cannot change"):
    function.validate_config_update(config, {**config, "normalize": False})

ids = [str(place) for place in range(len(TEXTS))]
for made, options in OPTIONS:
    client = chromadb.EphemeralClient()
    collection = client.create_collection("texts", embedding_function=made)
    collection.add(ids=ids, documents=TEXTS)
    same(collection.get(ids=ids, include=["embeddings"])["embeddings"], expected(TEXTS, **options))
    client.delete_collection("texts")

with tempfile.TemporaryDirectory() as folder:
    client = chromadb.PersistentClient(folder)
    collection = client.create_collection("texts", embedding_function=function)
    assert collection.configuration_json["hnsw"]["space"] == "cosine"
    collection.add(ids=ids, documents=TEXTS)
    opened = client.get_collection("texts")  # Chroma makes the function again
    for found in (collection, opened):
        for query, (documents,) in ((query, found.query(query_texts=query, n_results=5)["documents"]) for query in QUERIES):
            assert documents == ranking(query)
    client.close()
