"""The Python package openai: sync and async, each encoding, prompts and dimensions, models, and the errors that it raises."""

import asyncio
import os

import openai
from client_results import Results

results = Results()
embedding, prompted = results.embedding, results.prompted


def rows(answer):
    assert [item.index for item in answer.data] == list(range(len(answer.data)))
    return [item.embedding for item in answer.data]


def sync() -> None:
    with openai.OpenAI(base_url=f"{embedding.url}/v1", api_key=embedding.key, max_retries=0) as client:
        answer = client.embeddings.create(model=embedding.model, input=embedding.texts)
        assert answer.object == "list"
        assert answer.model == embedding.model
        results.add("embedding", "vectors", "sync, its own encoding", rows(answer))
        results.add("embedding", "tokens", "usage", answer.usage.prompt_tokens)
        results.add("embedding", "tokens", "usage, total", answer.usage.total_tokens)
        for encoding in ("float", "base64"):
            answer = client.embeddings.create(model=embedding.model, input=embedding.texts, encoding_format=encoding)
            kind = "vectors" if encoding == "float" else "base64 vectors"
            results.add("embedding", kind, encoding, rows(answer))
        answer = client.embeddings.create(model=embedding.model, input=embedding.texts[0], user="somebody")
        results.add("embedding", "vectors", "one text that is not in a list", rows(answer), texts=embedding.texts[:1])
        answer = client.embeddings.create(model=embedding.model, input=embedding.texts, extra_body={"normalize": False})
        results.add("embedding", "vectors", "normalize", rows(answer), normalize=False)
        assert [model.id for model in client.models.list()] == [embedding.model]
        assert client.models.retrieve(embedding.model).id == embedding.model
        with results.refused("another model", openai.NotFoundError, embedding.model):
            client.embeddings.create(model="another", input="x")
        with results.refused("token ids", openai.BadRequestError, "text"):
            client.embeddings.create(model=embedding.model, input=[[101, 2023, 102]])
        with results.refused("no text", openai.BadRequestError):
            client.embeddings.create(model=embedding.model, input=[])
        with results.refused("dimensions", openai.BadRequestError, "384"):
            client.embeddings.create(model=embedding.model, input="x", dimensions=7)
        with results.refused("a wrong key", openai.AuthenticationError):
            client.with_options(api_key="another").embeddings.create(model=embedding.model, input="x")


def from_environment() -> None:
    os.environ.update(OPENAI_BASE_URL=f"{prompted.url}/v1", OPENAI_API_KEY=prompted.key)
    with openai.OpenAI() as client:
        for role in ("query", "document"):
            answer = client.embeddings.create(model=prompted.model, input=prompted.texts, extra_body={"input_type": role})
            results.add("prompted", "vectors", f"input_type {role}", rows(answer), prompt_name=role)
        answer = client.embeddings.create(model=prompted.model, input=prompted.texts, extra_body={"prompt_name": "query"})
        results.add("prompted", "vectors", "prompt_name", rows(answer), prompt_name="query")
        answer = client.embeddings.create(model=prompted.model, input=prompted.texts, dimensions=8)
        results.add("prompted", "vectors", "dimensions", rows(answer), dimensions=8)
        with results.refused("another prompt", openai.BadRequestError, "query", "document"):
            client.embeddings.create(model=prompted.model, input="x", extra_body={"prompt_name": "another"})


async def in_a_loop() -> None:
    async with openai.AsyncOpenAI(base_url=f"{embedding.url}/v1", api_key=embedding.key) as client:
        answers = await asyncio.gather(*(client.embeddings.create(model=embedding.model, input=text) for text in embedding.texts))
        results.add("embedding", "vectors", "async, a request a text", [rows(answer)[0] for answer in answers])
        answer = await client.embeddings.create(model=embedding.model, input=embedding.texts, encoding_format="float")
        results.add("embedding", "vectors", "async, float", rows(answer))
        assert [model.id async for model in client.models.list()] == [embedding.model]


sync()
from_environment()
asyncio.run(in_a_loop())
results.write()
