"""A bundle as LangChain embeddings. Needs langchain-core and an engine: `pip install cls-export[cpu] langchain-core`."""

from __future__ import annotations

import os

from langchain_core.embeddings import Embeddings

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.integrations.text_vectors import TextVectors, lists_of


class ClsEmbeddings(Embeddings):
    """Vectors of documents and queries, each behind the prompt that the model was trained with for them.

        >>> embeddings = ClsEmbeddings("models/bge-small-en-v1.5")  # doctest: +SKIP
        >>> len(embeddings.embed_query("a text"))  # doctest: +SKIP
        384

    The asynchronous methods go through `Encoder.aencode`: requests that come at the same time are computed together.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_prefix: goes before each query; None for the bundle's own prompt, "" for none.
        document_prefix: goes before each document; likewise.

    Raises:
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such output, or vectors of fewer dimensions.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Encoder,
        *,
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
    ) -> None:
        self._vectors = TextVectors(
            bundle, output=output, normalize=normalize, dimensions=dimensions, query_prompt=query_prefix, document_prompt=document_prefix
        ).load()

    @property
    def encoder(self) -> Encoder:
        """What computes the vectors."""
        return self._vectors.encoder

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents, in their order."""
        return lists_of(self._vectors.documents(texts))

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        return lists_of(self._vectors.queries([text]))[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """`embed_documents` without blocking the event loop."""
        return lists_of(await self._vectors.adocuments(texts))

    async def aembed_query(self, text: str) -> list[float]:
        """`embed_query` without blocking the event loop."""
        return lists_of(await self._vectors.aqueries([text]))[0]
