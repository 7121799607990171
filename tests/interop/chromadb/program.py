"""chromadb's HuggingFaceEmbeddingServer, by itself and as a collection's embedding function."""

import os

import chromadb
from chromadb.utils.embedding_functions import HuggingFaceEmbeddingServer
from client_results import Results

results = Results()
embedding = results.embedding
os.environ["EMBEDDING_SERVER_KEY"] = embedding.key
function = HuggingFaceEmbeddingServer(url=f"{embedding.url}/embed", api_key_env_var="EMBEDDING_SERVER_KEY")
results.add("embedding", "vectors", "embedding function", function(embedding.texts))
root = HuggingFaceEmbeddingServer(url=embedding.url, api_key_env_var="EMBEDDING_SERVER_KEY")
results.add("embedding", "vectors", "by the server's root", root(embedding.texts))

collection = chromadb.EphemeralClient().create_collection("texts", embedding_function=function, metadata={"hnsw:space": "cosine"})
ids = [str(number) for number in range(len(embedding.texts))]
collection.add(ids=ids, documents=embedding.texts)
results.add("embedding", "vectors", "stored in a collection", collection.get(ids=ids, include=["embeddings"])["embeddings"])
found = collection.query(query_texts=embedding.texts[:3], n_results=1)
assert [documents[0] for documents in found["documents"]] == embedding.texts[:3]

with results.refused("a wrong key", Exception):
    os.environ["ANOTHER_KEY"] = "another"
    HuggingFaceEmbeddingServer(url=f"{embedding.url}/embed", api_key_env_var="ANOTHER_KEY")(["x"])
results.write()
