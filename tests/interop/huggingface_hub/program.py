"""InferenceClient: feature_extraction, sentence_similarity, text_classification; sync and async, by a server's root and by endpoints."""

import asyncio

from client_results import Results
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import HfHubHTTPError

results = Results()
embedding, prompted, classifier, reranker = results.embedding, results.prompted, results.classifier, results.reranker


def pairs(predictions):
    return [(element.label, element.score) for element in predictions]


def sync() -> None:
    client = InferenceClient(base_url=embedding.url, token=embedding.key)
    results.add("embedding", "vectors", "feature_extraction", client.feature_extraction(embedding.texts))
    results.add("embedding", "vectors", "one text", client.feature_extraction(embedding.texts[0]), texts=embedding.texts[:1])
    plain = client.feature_extraction(embedding.texts, normalize=False, truncate=True, truncation_direction="right")
    results.add("embedding", "vectors", "normalize=False", plain, normalize=False)
    similar = client.sentence_similarity(embedding.query, other_sentences=embedding.texts)
    results.add("embedding", "similarities", "sentence_similarity", similar)

    by_endpoint = InferenceClient(token=embedding.key)
    found = by_endpoint.feature_extraction(embedding.texts, model=f"{embedding.url}/embed")
    results.add("embedding", "vectors", "/embed", found)
    similar = by_endpoint.sentence_similarity(embedding.query, embedding.texts, model=f"{embedding.url}/similarity")
    results.add("embedding", "similarities", "/similarity", similar)

    asked = InferenceClient(prompted.url, token=prompted.key)
    for name in ("query", "document"):
        results.add("prompted", "vectors", name, asked.feature_extraction(prompted.texts, prompt_name=name), prompt_name=name)
    results.add("prompted", "vectors", "dimensions", asked.feature_extraction(prompted.texts, dimensions=8), dimensions=8)
    with results.refused("another prompt", HfHubHTTPError):
        asked.feature_extraction("x", prompt_name="another")
    with results.refused("too long", HfHubHTTPError):
        asked.feature_extraction("the cat " * 500, truncate=False)
    with results.refused("a wrong key", HfHubHTTPError, "401"):
        InferenceClient(embedding.url, token="another").feature_extraction("x")


def classification() -> None:
    for kind, server in (("classifier", classifier), ("reranker", reranker)):
        client = InferenceClient(server.url, token=server.key)
        for text in server.texts:
            results.add(kind, "predictions", "text_classification", pairs(client.text_classification(text)), texts=[text])
    client = InferenceClient(classifier.url, token=classifier.key)
    text = classifier.texts[0]
    results.add("classifier", "predictions", "top_k", pairs(client.text_classification(text, top_k=2)), texts=[text], top_n=2)
    for function in ("none", "sigmoid", "softmax"):
        found = pairs(client.text_classification(text, function_to_apply=function))
        results.add("classifier", f"predictions by {function}", function, found, texts=[text])


async def in_a_loop() -> None:
    async with AsyncInferenceClient(embedding.url, token=embedding.key) as client:
        results.add("embedding", "vectors", "async", await client.feature_extraction(embedding.texts))
        found = await asyncio.gather(*(client.feature_extraction(text) for text in embedding.texts))
        results.add("embedding", "vectors", "async, a request a text", [one[0] for one in found])
        similar = await client.sentence_similarity(embedding.query, other_sentences=embedding.texts)
        results.add("embedding", "similarities", "async", similar)
    async with AsyncInferenceClient(classifier.url, token=classifier.key) as client:
        for text in classifier.texts:
            results.add("classifier", "predictions", "async", pairs(await client.text_classification(text)), texts=[text])


sync()
classification()
asyncio.run(in_a_loop())
results.write()
