"""A bundle as LangChain embeddings. Needs langchain-core and an engine: `pip install cls-export[cpu] langchain-core`."""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np
from langchain_core.embeddings import Embeddings
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.texts import checked_text


class ClsEmbeddings(Embeddings):  # type: ignore[misc]  # untyped where langchain-core is not installed
    """Vectors of documents and queries, each behind the prompt that the model was trained with for them.

        >>> embeddings = ClsEmbeddings("models/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> len(embeddings.embed_query("a text"))  # doctest: +SKIP
        384

    `aembed_documents` and `aembed_query` run in LangChain's thread pool: an `Encoder` may be used from many threads.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        output: `sentence`, or another that is a row a text.
        normalize: divide each vector by its L2 norm; None as the model was trained.
        dimensions: how many numbers of each vector are kept; None as the model was trained.
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
        self.encoder = bundle if isinstance(bundle, Encoder) else Encoder.load(bundle)
        self.output: Output = output
        self.normalize = normalize
        self.dimensions = dimensions
        self.query_prefix = query_prefix
        self.document_prefix = document_prefix
        self.embed_documents([])  # what the bundle does not have is told now, not at the first text

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """The vectors of documents, in their order."""
        return self._vectors(self.encoder.encode_document, texts, self.document_prefix)

    def embed_query(self, text: str) -> list[float]:
        """The vector of one query."""
        return self._vectors(self.encoder.encode_query, [text], self.query_prefix)[0]

    def _vectors(self, encode: Callable[..., NDArray[np.float32]], texts: list[str], prompt: str | None) -> list[list[float]]:
        plain = [_plain(text, index) for index, text in enumerate(iterable_of_texts(texts))]
        rows = encode(plain, output=self.output, normalize=self.normalize, dimensions=self.dimensions, prompt=prompt)
        vectors: list[list[float]] = rows.tolist()
        return vectors


def _plain(text: object, index: int) -> str:
    """A text as a plain str; a pair has no place here."""
    checked = checked_text(text, index)
    if not isinstance(checked, str):
        raise TypeError(f"text {index} is a pair, expected a str")
    return checked
