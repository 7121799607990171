"""A bundle as LangChain embeddings. Needs langchain-core and an engine: `pip install cls-export[cpu] langchain-core`."""

from __future__ import annotations

import os

from langchain_core.embeddings import Embeddings

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.tokenizer import checked_text


class ClsEmbeddings(Embeddings):  # type: ignore[misc]  # untyped where langchain-core is not installed
    """Vectors of documents and queries.

        >>> embeddings = ClsEmbeddings("models/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embeddings.embed_query("a text"))  # doctest: +SKIP
        384

    `aembed_documents` and `aembed_query` run in LangChain's thread pool: an `Encoder` may be used from many threads.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        output: `cls`, or `pooler` where the bundle has it.
        normalize: divide each vector by its L2 norm; None for what the source model does.
        query_prefix: goes before each query, for models trained with an instruction there.
        document_prefix: goes before each document.

    Raises:
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
        UsageError: the bundle has no such output.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Encoder,
        *,
        output: Output = "cls",
        normalize: bool | None = None,
        query_prefix: str = "",
        document_prefix: str = "",
    ) -> None:
        self.encoder = bundle if isinstance(bundle, Encoder) else Encoder.load(bundle)
        self.output: Output = output
        self.normalize = self.encoder.manifest.source_pooling.normalize if normalize is None else normalize
        self.query_prefix = query_prefix
        self.document_prefix = document_prefix
        self.encoder.encode([], output=output)  # an output that is not there is told now, not at the first text

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents, in their order."""
        return self._vectors([self.document_prefix + _plain(text, index) for index, text in enumerate(iterable_of_texts(texts))])

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        return self._vectors([self.query_prefix + _plain(text, 0)])[0]

    def _vectors(self, texts: list[str]) -> list[list[float]]:
        vectors: list[list[float]] = self.encoder.encode(texts, output=self.output, normalize=self.normalize).tolist()
        return vectors


def _plain(text: object, index: int) -> str:
    """A text as a plain str; a pair has no place here."""
    checked = checked_text(text, index)
    if not isinstance(checked, str):
        raise TypeError(f"text {index} is a pair, expected a str")
    return checked
