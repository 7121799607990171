"""Haystack's embedders of OpenAI's protocol, and of TEI's with its ranker, sync and async."""

import asyncio

from client_results import Results
from haystack import Document
from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder
from haystack.utils import Secret
from haystack_integrations.components.embedders.huggingface_api import HuggingFaceAPIDocumentEmbedder, HuggingFaceAPITextEmbedder
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker

results = Results()
embedding, reranker = results.embedding, results.reranker
key = Secret.from_token(embedding.key)
openai = {"api_base_url": f"{embedding.url}/v1", "api_key": key, "model": embedding.model}
tei = {"api_type": "text_embeddings_inference", "api_params": {"url": embedding.url}, "token": key}


def documents(texts):
    return [Document(content=text, meta={"place": place}) for place, text in enumerate(texts)]


def rows(answer):
    return [document.embedding for document in answer["documents"]]


def ranking(answer):
    return [(document.meta["place"], document.score) for document in answer["documents"]]


async def in_a_loop() -> None:
    for name, embedder in (("openai", OpenAIDocumentEmbedder(**openai)), ("tei", HuggingFaceAPIDocumentEmbedder(**tei, normalize=True))):
        results.add("embedding", "vectors", f"{name}, async", rows(await embedder.run_async(documents=documents(embedding.texts))))
    answer = await HuggingFaceTEIRanker(url=reranker.url, token=key).run_async(query=reranker.query, documents=documents(reranker.texts))
    results.add("reranker", "ranking", "async", ranking(answer))


results.add("embedding", "vectors", "openai", rows(OpenAIDocumentEmbedder(**openai).run(documents=documents(embedding.texts))))
text = OpenAITextEmbedder(**openai).run(text=embedding.query)["embedding"]
results.add("embedding", "vectors", "openai, text", [text], texts=[embedding.query])
trained = HuggingFaceAPIDocumentEmbedder(**tei, normalize=True)
results.add("embedding", "vectors", "tei", rows(trained.run(documents=documents(embedding.texts))))
unsaid = HuggingFaceAPIDocumentEmbedder(**tei)  # it says normalize=False unless told otherwise
results.add("embedding", "vectors", "tei, as it is", rows(unsaid.run(documents=documents(embedding.texts))), normalize=False)
text = HuggingFaceAPITextEmbedder(**tei, normalize=True).run(text=embedding.query)["embedding"]
results.add("embedding", "vectors", "tei, text", [text], texts=[embedding.query])

ranker = HuggingFaceTEIRanker(url=reranker.url, token=key)
results.add("reranker", "ranking", "ranker", ranking(ranker.run(query=reranker.query, documents=documents(reranker.texts))))
raw = HuggingFaceTEIRanker(url=reranker.url, token=key, raw_scores=True)
results.add("reranker", "ranking by logits", "ranker", ranking(raw.run(query=reranker.query, documents=documents(reranker.texts))))
asyncio.run(in_a_loop())

with results.refused("a wrong key", RuntimeError, "401"):
    HuggingFaceTEIRanker(url=reranker.url, token=Secret.from_token("another")).run(query="x", documents=documents(["y"]))
with results.refused("a bundle without logits", RuntimeError, "424"):
    HuggingFaceTEIRanker(url=embedding.url, token=key).run(query="x", documents=documents(["y"]))
results.write()
