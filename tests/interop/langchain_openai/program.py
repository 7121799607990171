"""LangChain's OpenAIEmbeddings: sync and async, prompts, and what it gets where it sends token ids."""

import asyncio

import openai
from client_results import Results
from langchain_openai import OpenAIEmbeddings

results = Results()
embedding, prompted = results.embedding, results.prompted


def client(server, **options):
    options = {"check_embedding_ctx_length": False, **options}
    return OpenAIEmbeddings(model=server.model, base_url=f"{server.url}/v1", api_key=server.key, **options)


async def in_a_loop() -> None:
    embeddings = client(embedding)
    results.add("embedding", "vectors", "aembed_documents", await embeddings.aembed_documents(embedding.texts))
    queries = await asyncio.gather(*map(embeddings.aembed_query, embedding.texts))
    results.add("embedding", "vectors", "aembed_query", queries)


embeddings = client(embedding)
results.add("embedding", "vectors", "embed_documents", embeddings.embed_documents(embedding.texts))
results.add("embedding", "vectors", "chunk_size", embeddings.embed_documents(embedding.texts, chunk_size=7))
results.add("embedding", "vectors", "embed_query", [embeddings.embed_query(embedding.query)], texts=[embedding.query])
floats = client(embedding, model_kwargs={"encoding_format": "float"})
results.add("embedding", "vectors", "float", floats.embed_documents(embedding.texts))
asyncio.run(in_a_loop())

embeddings = client(prompted, dimensions=8)
results.add("prompted", "vectors", "dimensions", embeddings.embed_documents(prompted.texts), dimensions=8)
query = {"extra_body": {"input_type": "query"}}
asked = [client(prompted).embed_query(text, **query) for text in prompted.texts]
results.add("prompted", "vectors", "a query's prompt", asked, prompt_name="query")

with results.refused("a wrong key", openai.AuthenticationError):
    OpenAIEmbeddings(base_url=f"{embedding.url}/v1", api_key="another", check_embedding_ctx_length=False).embed_query("x")
# What a list of token ids looks like, which it sends unless check_embedding_ctx_length is False; tiktoken's vocabularies are not here.
with results.refused("token ids", openai.BadRequestError, "check_embedding_ctx_length=False"):
    embeddings.client.create(model=prompted.model, input=[[9906, 1917]])
results.write()
