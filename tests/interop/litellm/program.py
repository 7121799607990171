"""LiteLLM by each of its providers that takes a server's address: OpenAI's, vLLM's, infinity's, TEI's, Cohere's and Jina's protocols."""

import asyncio

import litellm
from client_results import Results

results = Results()
embedding, reranker, prompted = results.embedding, results.reranker, results.prompted
V1 = f"{embedding.url}/v1"
EMBEDDERS = {"openai": V1, "hosted_vllm": V1, "infinity": V1, "openai_like": V1, "cohere": f"{embedding.url}/v2/embed"}
RERANKERS = {
    "cohere": {"api_base": reranker.url},
    "jina_ai": {"api_base": reranker.url},
    "infinity": {"api_base": f"{reranker.url}/v1", "return_documents": False},  # it reads them as strings, as only infinity gives them
    "hosted_vllm": {"api_base": reranker.url},
    "huggingface": {"api_base": reranker.url},
}


def rows(answer):
    return [item["embedding"] for item in answer.data]


def ranking(answer):
    return [(item["index"], item["relevance_score"]) for item in answer.results]


async def in_a_loop() -> None:
    for provider in ("openai", "hosted_vllm", "infinity"):
        answer = await litellm.aembedding(
            f"{provider}/{embedding.model}", input=embedding.texts, api_base=EMBEDDERS[provider], api_key=embedding.key
        )
        results.add("embedding", "vectors", f"{provider}, async", rows(answer))
    for provider, options in RERANKERS.items():
        answer = await litellm.arerank(
            f"{provider}/{reranker.model}", query=reranker.query, documents=reranker.texts, api_key=reranker.key, **options
        )
        results.add("reranker", "ranking", f"{provider}, async", ranking(answer))


for provider, base in EMBEDDERS.items():
    options = {"input_type": "search_document"} if provider == "cohere" else {}
    answer = litellm.embedding(f"{provider}/{embedding.model}", input=embedding.texts, api_base=base, api_key=embedding.key, **options)
    results.add("embedding", "vectors", provider, rows(answer))
    results.add("embedding", "tokens", provider, answer.usage.prompt_tokens)
tei = {"api_base": f"{embedding.url}/embed", "api_key": embedding.key, "input_type": "embed"}
results.add("embedding", "vectors", "huggingface", rows(litellm.embedding("huggingface/tei", input=embedding.texts, **tei)))
answer = litellm.embedding(
    f"infinity/{prompted.model}", input=prompted.texts, dimensions=8, api_base=f"{prompted.url}/v1", api_key=prompted.key
)
results.add("prompted", "vectors", "infinity, dimensions", rows(answer), dimensions=8)

for provider, options in RERANKERS.items():
    asked = {"model": f"{provider}/{reranker.model}", "query": reranker.query, "api_key": reranker.key, **options}
    answer = litellm.rerank(**asked, documents=reranker.texts)
    results.add("reranker", "ranking", provider, ranking(answer))
    answer = litellm.rerank(**asked, documents=reranker.texts, top_n=2)
    results.add("reranker", "ranking", f"{provider}, top_n", ranking(answer), top_n=2)
asyncio.run(in_a_loop())

with results.refused("another model", litellm.NotFoundError, embedding.model):
    litellm.embedding("openai/another", input=["x"], api_base=V1, api_key=embedding.key)
with results.refused("a wrong key", litellm.AuthenticationError):
    litellm.embedding(f"openai/{embedding.model}", input=["x"], api_base=V1, api_key="another")
results.write()
