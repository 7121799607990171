"""A body for each endpoint that takes one: what /openapi.json and /docs show, and a test sends."""

from __future__ import annotations

from typing import Any

_TEXTS = ["A cat sleeps in the sun.", "The kitten naps."]
_QUERY = "Where does the cat sleep?"
_RERANK = {"query": _QUERY, "documents": _TEXTS, "top_n": 1}
_COHERE_EMBED = {"texts": _TEXTS, "input_type": "search_document", "embedding_types": ["float"]}

EXAMPLES: dict[str, Any] = {
    "/v1/embeddings": {"input": _TEXTS},
    "/embeddings": {"input": _TEXTS},
    "/embed": {"inputs": _TEXTS},
    "/similarity": {"inputs": {"source_sentence": _TEXTS[0], "sentences": _TEXTS[1:]}},
    "/predict": {"inputs": _TEXTS[0]},
    "/rerank": {"query": _QUERY, "texts": _TEXTS},
    "/v1/rerank": _RERANK,
    "/v2/rerank": _RERANK,
    "/v1/embed": _COHERE_EMBED,
    "/v2/embed": _COHERE_EMBED,
    "/tokenize": {"inputs": _TEXTS[0]},
    "/decode": {"ids": [101, 1037, 4937, 102]},
    "/": {"inputs": _TEXTS[0]},
}
