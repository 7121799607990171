"""LlamaIndex: OpenAILikeEmbedding and TextEmbeddingsInference, sync and async.

OpenAILikeEmbedding puts a space in place of a line's end and TextEmbeddingsInference cuts space off both ends, before a text is sent.
"""

import asyncio

from client_results import Results
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

results = Results()
embedding = results.embedding
texts = [text for text in embedding.texts if text.strip() == text and "\n" not in text]

like = OpenAILikeEmbedding(model_name=embedding.model, api_base=f"{embedding.url}/v1", api_key=embedding.key, max_retries=0)
tei = TextEmbeddingsInference(model_name=embedding.model, base_url=embedding.url, auth_token=embedding.key)


async def in_a_loop() -> None:
    for name, client in (("openai_like", like), ("tei", tei)):
        results.add("embedding", "vectors", f"{name}, async", await client.aget_text_embedding_batch(texts), texts=texts)
        queries = await asyncio.gather(*map(client.aget_query_embedding, texts[:3]))
        results.add("embedding", "vectors", f"{name}, async queries", queries, texts=texts[:3])


for name, client in (("openai_like", like), ("tei", tei)):
    results.add("embedding", "vectors", f"{name}", client.get_text_embedding_batch(texts), texts=texts)
    results.add("embedding", "vectors", f"{name}, one text", [client.get_text_embedding(texts[0])], texts=texts[:1])
    results.add("embedding", "vectors", f"{name}, queries", [client.get_query_embedding(text) for text in texts[:3]], texts=texts[:3])
asyncio.run(in_a_loop())

with results.refused("a wrong key", Exception):
    stranger = OpenAILikeEmbedding(model_name=embedding.model, api_base=f"{embedding.url}/v1", api_key="another", max_retries=0)
    stranger.get_text_embedding("x")
with results.refused("a wrong key, tei", Exception):
    TextEmbeddingsInference(model_name=embedding.model, base_url=embedding.url, auth_token="another").get_text_embedding("x")
results.write()
