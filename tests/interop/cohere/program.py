"""cohere's clients of both versions, rerank and embed, sync and async; the first version's embed sends batches of 96 side by side."""

import asyncio

import cohere
from client_results import Results

results = Results()
prompted, reranker, embedding = results.prompted, results.reranker, results.embedding
ROLES = {"search_query": "query", "search_document": "document"}


def ranking(answer):
    return [(item.index, item.relevance_score) for item in answer.results]


def first_version() -> None:
    client = cohere.Client(api_key=reranker.key, base_url=reranker.url)
    asked = {"model": reranker.model, "query": reranker.query, "documents": reranker.texts}
    results.add("reranker", "ranking", "v1", ranking(client.rerank(**asked)))
    results.add("reranker", "ranking", "v1, top_n", ranking(client.rerank(**asked, top_n=2)), top_n=2)
    answer = client.rerank(**{**asked, "documents": [{"text": text} for text in reranker.texts]}, return_documents=True)
    assert [item.document.text for item in answer.results] == [reranker.texts[item.index] for item in answer.results]
    results.add("reranker", "ranking", "v1, documents that are objects", ranking(answer))

    client = cohere.Client(api_key=prompted.key, base_url=prompted.url)
    for role, prompt in ROLES.items():
        answer = client.embed(model=prompted.model, input_type=role, texts=prompted.texts)
        assert answer.response_type == "embeddings_floats"
        assert answer.texts == prompted.texts
        results.add("prompted", "vectors", f"v1, {role}", answer.embeddings, prompt_name=prompt)
        answer = client.embed(model=prompted.model, input_type=role, texts=prompted.texts, embedding_types=["float"])
        assert answer.response_type == "embeddings_by_type"
        results.add("prompted", "vectors", f"v1, {role} by type", answer.embeddings.float_, prompt_name=prompt)

    many = [f"{text} {number}" for number in range(20) for text in prompted.texts]
    answer = client.embed(model=prompted.model, input_type="search_document", texts=many)
    results.add("prompted", "vectors", "v1, many", answer.embeddings, prompt_name="document", texts=many)
    streamed = list(client.embed_stream(model=prompted.model, input_type="search_query", texts=prompted.texts, batch_size=2))
    assert [one.text for one in streamed] == prompted.texts
    results.add("prompted", "vectors", "v1, streamed", [one.embedding for one in streamed], prompt_name="query")


def second_version() -> None:
    client = cohere.ClientV2(api_key=reranker.key, base_url=reranker.url)
    asked = {"model": reranker.model, "query": reranker.query, "documents": reranker.texts}
    results.add("reranker", "ranking", "v2", ranking(client.rerank(**asked)))
    results.add("reranker", "ranking", "v2, top_n", ranking(client.rerank(**asked, top_n=2)), top_n=2)
    with results.refused("another model", cohere.NotFoundError, reranker.model):
        client.rerank(**{**asked, "model": "another"})
    with results.refused("no documents", cohere.BadRequestError):
        client.rerank(**{**asked, "documents": []})

    client = cohere.ClientV2(api_key=prompted.key, base_url=prompted.url)
    for role, prompt in ROLES.items():
        answer = client.embed(model=prompted.model, input_type=role, texts=prompted.texts, embedding_types=["float"])
        assert answer.texts == prompted.texts
        results.add("prompted", "vectors", f"v2, {role}", answer.embeddings.float_, prompt_name=prompt)
    answer = client.embed(model=prompted.model, input_type="search_query", texts=prompted.texts, output_dimension=8)
    results.add("prompted", "vectors", "v2, output_dimension", answer.embeddings.float_, prompt_name="query", dimensions=8)
    with results.refused("too long", cohere.BadRequestError):
        client.embed(model=prompted.model, input_type="search_query", texts=["the cat " * 500], truncate="NONE")
    with results.refused("a wrong key", cohere.UnauthorizedError):
        cohere.ClientV2(api_key="another", base_url=prompted.url).embed(model=prompted.model, input_type="search_query", texts=["x"])

    # The client demands input_type; a model without prompts has none to put before a text.
    client = cohere.ClientV2(api_key=embedding.key, base_url=embedding.url)
    for role in (*ROLES, "classification", "clustering"):
        answer = client.embed(model=embedding.model, input_type=role, texts=embedding.texts)
        results.add("embedding", "vectors", f"v2, {role} without prompts", answer.embeddings.float_)
    answer = client.embed(model=embedding.model, input_type="search_query", texts=embedding.texts, truncate="START")
    results.add("embedding", "vectors", "v2, truncate START", answer.embeddings.float_, truncation_side="left")


async def in_a_loop() -> None:
    async with cohere.AsyncClientV2(api_key=reranker.key, base_url=reranker.url) as client:
        answers = await asyncio.gather(
            *(client.rerank(model=reranker.model, query=reranker.query, documents=reranker.texts) for _ in range(4))
        )
        for answer in answers:
            results.add("reranker", "ranking", "v2, async", ranking(answer))
    async with cohere.AsyncClient(api_key=prompted.key, base_url=prompted.url) as client:
        answer = await client.embed(model=prompted.model, input_type="search_query", texts=prompted.texts)
        results.add("prompted", "vectors", "v1, async", answer.embeddings, prompt_name="query")


first_version()
second_version()
asyncio.run(in_a_loop())
results.write()
