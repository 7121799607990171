"""A bundle as a LlamaIndex embedding. Needs llama-index-core and an engine: `pip install cls-export[cpu] llama-index-core`."""

from __future__ import annotations

import os
from typing import Any

from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.callbacks import CallbackManager

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.errors import UsageError
from cls_runtime.integrations.text_vectors import TextVectors, lists_of

# The batches that LlamaIndex starts at once together wait in the encoder's queue, which takes 8,192 texts.
_BATCH_SIZE, _WORKERS = 1024, 4


class ClsEmbedding(BaseEmbedding):  # untyped where llama-index-core is not installed
    """Vectors of queries and texts, each behind the prompt that the model was trained with for them.

        >>> embedding = ClsEmbedding("models/bge-small-en-v1.5")  # doctest: +SKIP
        >>> len(embedding.get_query_embedding("a text"))  # doctest: +SKIP
        384

    `to_dict` and `from_dict` keep the bundle's name, the variant and the options below. The other options of an `Encoder` are not kept.

    Args:
        model_name: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_instruction: goes before each query; None for the bundle's own prompt, "" for none.
        text_instruction: goes before each text; likewise, with the bundle's prompt for documents.
        embed_batch_size, num_workers, callback_manager, embeddings_cache, rate_limiter: LlamaIndex's own. The encoder makes its own batches
            of each batch, so a large `embed_batch_size` costs no padding.

    Raises:
        BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such variant or output, or vectors of fewer dimensions; or `embeddings_cache`, which stores one vector
            per text, and queries have another prompt than texts.
    """

    variant: str = Field(default="auto", description="The variant of the bundle.")
    output: str = Field(default="sentence", description="The output of the model.")
    normalize: bool | None = Field(default=None, description="Whether each vector is divided by its L2 norm; None for the model's choice.")
    dimensions: int | None = Field(default=None, description="How many numbers of each vector are kept; None for the model's choice.")
    query_instruction: str | None = Field(default=None, description="Goes before each query; None for the bundle's prompt.")
    text_instruction: str | None = Field(default=None, description="Goes before each text; None for the bundle's prompt.")

    _vectors: TextVectors = PrivateAttr()

    def __init__(
        self,
        model_name: str | os.PathLike[str] | Encoder,
        *,
        variant: str = "auto",
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
        query_instruction: str | None = None,
        text_instruction: str | None = None,
        embed_batch_size: int = _BATCH_SIZE,
        num_workers: int | None = _WORKERS,
        callback_manager: CallbackManager | None = None,
        embeddings_cache: Any = None,
        rate_limiter: Any = None,
    ) -> None:
        vectors = TextVectors(
            model_name,
            variant=variant,
            output=output,
            normalize=normalize,
            dimensions=dimensions,
            query_prompt=query_instruction,
            document_prompt=text_instruction,
        ).load()
        if embeddings_cache is not None and vectors.tells_queries_apart:
            raise UsageError(
                "embeddings_cache stores one vector per text, this bundle's queries and documents differ by their prompts; leave it out"
            )
        super().__init__(
            model_name=vectors.name,
            **vectors.settings,
            query_instruction=query_instruction,
            text_instruction=text_instruction,
            embed_batch_size=embed_batch_size,
            num_workers=num_workers,
            callback_manager=callback_manager or CallbackManager([]),
            embeddings_cache=embeddings_cache,
            rate_limiter=rate_limiter,
        )
        self._vectors = vectors

    @classmethod
    def class_name(cls) -> str:
        """The class, as LlamaIndex writes it beside what it serializes."""
        return "ClsEmbedding"

    def get_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> list[list[float]]:
        """As LlamaIndex's own, which would take a str for a list of its characters: here that is a TypeError."""
        listed = list(iterable_of_texts(texts))
        return super().get_text_embedding_batch(listed, show_progress=show_progress, **kwargs)

    async def aget_text_embedding_batch(self, texts: list[str], show_progress: bool = False, **kwargs: Any) -> list[list[float]]:
        """As LlamaIndex's own, which would take a str for a list of its characters: here that is a TypeError."""
        listed = list(iterable_of_texts(texts))
        return await super().aget_text_embedding_batch(listed, show_progress=show_progress, **kwargs)

    def _get_query_embedding(self, query: str) -> list[float]:
        return lists_of(self._vectors.queries([query]))[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return lists_of(await self._vectors.aqueries([query]))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return self._get_text_embeddings([text])[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await self._aget_text_embeddings([text]))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return lists_of(self._vectors.documents(texts))

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return lists_of(await self._vectors.adocuments(texts))
