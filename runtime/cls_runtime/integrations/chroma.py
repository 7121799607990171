"""A bundle as a Chroma embedding function. Needs chromadb and an engine: `pip install cls-export[cpu] chromadb`.

Import this module before you open a collection that was made with `ClsEmbeddingFunction`: that registers the function with Chroma.
"""

from __future__ import annotations

import os
from typing import Any

from chromadb.api.types import Documents, EmbeddingFunction, Embeddings, Space
from chromadb.utils.embedding_functions import register_embedding_function

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.errors import UsageError
from cls_runtime.integrations.text_vectors import TextVectors

# The space in which Chroma finds what the model's similarity function ranks first; it knows no Manhattan distance.
_SPACES: dict[str | None, Space] = {"dot": "ip", "euclidean": "l2"}


@register_embedding_function  # untyped where chromadb is not installed
class ClsEmbeddingFunction(EmbeddingFunction[Documents]):
    """Vectors of documents, and by `embed_query` of queries, each behind the prompt that the model was trained with for them.

        >>> function = ClsEmbeddingFunction("models/bge-small-en-v1.5")  # doctest: +SKIP
        >>> chromadb.EphemeralClient().create_collection("texts", embedding_function=function)  # doctest: +SKIP

    A collection stores the bundle's name, the variant and the options below. The other options of an `Encoder` are not stored.

    Args:
        model_name: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_prefix: goes before each query; None for the bundle's own prompt, "" for none.
        document_prefix: goes before each document; likewise.
        load: load the bundle now, so that what it does not have is an error here; False to load it with the first text. Chroma opens a
            stored collection with False.

    Raises:
        BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such variant or output, or vectors of fewer dimensions.
    """

    def __init__(
        self,
        model_name: str | os.PathLike[str] | Encoder,
        *,
        variant: str = "auto",
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
        query_prefix: str | None = None,
        document_prefix: str | None = None,
        load: bool = True,
    ) -> None:
        self._prefixes = {"query_prefix": query_prefix, "document_prefix": document_prefix}
        self._vectors = TextVectors(
            model_name,
            variant=variant,
            output=output,
            normalize=normalize,
            dimensions=dimensions,
            query_prompt=query_prefix,
            document_prompt=document_prefix,
        )
        if load:
            self._vectors.load()

    def __call__(self, input: Documents) -> Embeddings:  # noqa: A002 - Chroma passes it by this name
        """The vectors of documents, each a float32 [width]."""
        return list(self._vectors.documents(input))

    def embed_query(self, input: Documents) -> Embeddings:  # noqa: A002
        """The vectors of queries, each a float32 [width]."""
        return list(self._vectors.queries(input))

    @staticmethod
    def name() -> str:
        """The name under which Chroma stores the function."""
        return "cls-export"

    def default_space(self) -> Space:
        """The space of the model's similarity function; `cosine` where it does not say, or Chroma has none for it."""
        return _SPACES.get(self._vectors.encoder.manifest.similarity_fn_name, "cosine")

    def supported_spaces(self) -> list[Space]:
        """All that Chroma has."""
        return ["cosine", "l2", "ip"]

    def get_config(self) -> dict[str, Any]:
        """What Chroma stores with a collection."""
        return {"model_name": self._vectors.name, **self._vectors.settings, **self._prefixes}

    @staticmethod
    def build_from_config(config: dict[str, Any]) -> ClsEmbeddingFunction:
        """The function of a stored collection; its bundle is loaded with the first text."""
        return ClsEmbeddingFunction(**config, load=False)

    def validate_config_update(self, old_config: dict[str, Any], new_config: dict[str, Any]) -> None:
        """Refuses another model or other options: the collection's vectors would no longer be comparable.

        Raises:
            UsageError: an option that decides about the vectors differs. Another place of the bundle does not.
        """
        changed = sorted(name for name, value in old_config.items() if name != "model_name" and new_config.get(name, value) != value)
        if changed:
            raise UsageError(f"{', '.join(changed)} cannot change in a collection that has vectors; make a new collection")
