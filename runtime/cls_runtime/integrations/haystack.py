"""A bundle as Haystack's embedders. Needs haystack-ai and an engine: `pip install cls-export[cpu] haystack-ai`."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from haystack import Document, component, default_from_dict, default_to_dict

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.integrations.text_vectors import TextVectors, single_text, single_texts


@component  # untyped where haystack-ai is not installed
class ClsTextEmbedder:
    """The vector of a query, behind the prompt that the model was trained with for queries.

        >>> ClsTextEmbedder("models/bge-small-en-v1.5").run(text="a text")["embedding"]  # doctest: +SKIP

    The bundle is loaded by `warm_up` or the first `run`. `to_dict` keeps the bundle's name, the variant and the options below; the other
    options of an `Encoder` are not kept.

    Args:
        model: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        prefix: goes before the text; None for the bundle's own prompt for queries, "" for none.
        suffix: goes after the text.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide the vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of the vector are kept; None for the model's own choice.

    Raises:
        UsageError: an option makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        *,
        prefix: str | None = None,
        suffix: str = "",
        variant: str = "auto",
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> None:
        self.prefix = prefix
        self.suffix = single_text(suffix)
        self._vectors = TextVectors(model, variant=variant, output=output, normalize=normalize, dimensions=dimensions, query_prompt=prefix)

    def warm_up(self) -> None:
        """Loads the bundle.

        Raises:
            BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
            UsageError: the bundle has no such variant or output, or vectors of fewer dimensions.
        """
        self._vectors.load()

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack stores it."""
        return _stored(self, model=self._vectors.name, prefix=self.prefix, suffix=self.suffix, **self._vectors.settings)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ClsTextEmbedder:
        """The component that `to_dict` described."""
        made: ClsTextEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, Any]:
        """`embedding`: the vector of the text.

        Raises:
            TypeError: `text` is no str.
        """
        return {"embedding": self._vectors.queries([single_text(text) + self.suffix])[0].tolist()}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, Any]:
        """`run` without blocking the event loop."""
        return {"embedding": (await self._vectors.aqueries([single_text(text) + self.suffix]))[0].tolist()}


@component
class ClsDocumentEmbedder:
    """The vectors of documents, behind the prompt that the model was trained with for documents.

        >>> ClsDocumentEmbedder("models/bge-small-en-v1.5").run(documents=[Document(content="a text")])  # doctest: +SKIP

    Loading, `to_dict` and errors are those of `ClsTextEmbedder`. The encoder makes its own batches.

    Args:
        model: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        prefix: goes before each text; None for the bundle's own prompt for documents, "" for none.
        suffix: goes after each text.
        meta_fields_to_embed: names of metadata whose values go before the content, where a document has them.
        embedding_separator: goes between those values and the content.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.

    Raises:
        UsageError: an option makes no sense.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | Encoder,
        *,
        prefix: str | None = None,
        suffix: str = "",
        meta_fields_to_embed: list[str] | None = None,
        embedding_separator: str = "\n",
        variant: str = "auto",
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
    ) -> None:
        self.prefix = prefix
        self.suffix = single_text(suffix)
        self.meta_fields_to_embed = single_texts(meta_fields_to_embed or ())
        self.embedding_separator = single_text(embedding_separator)
        self._vectors = TextVectors(
            model, variant=variant, output=output, normalize=normalize, dimensions=dimensions, document_prompt=prefix
        )

    def warm_up(self) -> None:
        """Loads the bundle; errors are those of `ClsTextEmbedder.warm_up`."""
        self._vectors.load()

    def to_dict(self) -> dict[str, Any]:
        """The component as Haystack stores it."""
        return _stored(
            self,
            model=self._vectors.name,
            prefix=self.prefix,
            suffix=self.suffix,
            meta_fields_to_embed=self.meta_fields_to_embed,
            embedding_separator=self.embedding_separator,
            **self._vectors.settings,
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> ClsDocumentEmbedder:
        """The component that `to_dict` described."""
        made: ClsDocumentEmbedder = default_from_dict(cls, data)
        return made

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, Any]:
        """`documents`: copies of the documents with their vectors.

        Raises:
            TypeError: `documents` is not a list of Haystack's documents.
        """
        return {"documents": _with_vectors(documents, self._vectors.documents(self._texts(documents)))}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, Any]:
        """`run` without blocking the event loop."""
        return {"documents": _with_vectors(documents, await self._vectors.adocuments(self._texts(documents)))}

    def _texts(self, documents: list[Document]) -> list[str]:
        if not isinstance(documents, list) or not all(isinstance(document, Document) for document in documents):
            raise TypeError("documents is not a list of haystack.Document; use ClsTextEmbedder for a query")
        return [self._text(document) for document in documents]

    def _text(self, document: Document) -> str:
        values = [document.meta.get(name) for name in self.meta_fields_to_embed]
        parts = [*(str(value) for value in values if value is not None), document.content or ""]
        return self.embedding_separator.join(parts) + self.suffix


def _with_vectors(documents: list[Document], rows: Any) -> list[Document]:
    return [replace(document, embedding=row) for document, row in zip(documents, rows.tolist(), strict=True)]


def _stored(embedder: Any, **arguments: Any) -> dict[str, Any]:
    stored: dict[str, Any] = default_to_dict(embedder, **arguments)
    return stored
