"""A bundle as a LanceDB embedding function. Needs lancedb and an engine: `pip install cls-export[cpu] lancedb`.

Import this module before you open a table that was made with it: that registers `cls-export` with LanceDB.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from lancedb.embeddings import TextEmbeddingFunction, register
from numpy.typing import NDArray
from pydantic import ConfigDict, PrivateAttr

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder
from cls_runtime.errors import UsageError
from cls_runtime.integrations.text_vectors import TextVectors, single_text


@register("cls-export")  # untyped where lancedb is not installed
class ClsEmbeddingFunction(TextEmbeddingFunction):
    """Vectors of a table's texts and of queries, each behind the prompt that the model was trained with for them.

        >>> function = ClsEmbeddingFunction.create(name="models/bge-small-en-v1.5")  # doctest: +SKIP

    It is made by `create`, as every function of LanceDB, and loads the bundle when it first needs it. A table stores the bundle's name, the
    variant and the options that you gave. The other options of an `Encoder` are not stored.

    Attributes:
        name: the bundle's folder or its name on the hub; `create` takes an `Encoder` too.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_prefix: goes before each query; None for the bundle's own prompt, "" for none.
        document_prefix: goes before each text of the table; likewise, with the bundle's prompt for documents.
        max_retries: LanceDB's own; 0, because a wrong text stays wrong.
    """

    name: str
    variant: str = "auto"
    output: Output = "sentence"
    normalize: bool | None = None
    dimensions: int | None = None
    query_prefix: str | None = None
    document_prefix: str | None = None
    max_retries: int = 0

    _vectors: TextVectors = PrivateAttr()

    model_config = ConfigDict(extra="forbid")

    def model_post_init(self, context: Any) -> None:
        """Checks the options."""
        super().model_post_init(context)
        self._vectors = self._of(self.name)

    @classmethod
    def create(cls, **kwargs: Any) -> ClsEmbeddingFunction:
        """Makes the function; `name` may be an `Encoder`.

        Raises:
            UsageError: an option makes no sense, or does not fit the `Encoder`.
        """
        encoder = kwargs.get("name")
        if not isinstance(encoder, Encoder):
            made: ClsEmbeddingFunction = super().create(**kwargs)
            return made
        variant = kwargs.get("variant", "auto")
        named: ClsEmbeddingFunction = super().create(**{**kwargs, "name": encoder.bundle.name})
        named._vectors = named._of(encoder)
        named.variant = encoder.info.variant if variant == "auto" else variant
        return named

    def safe_model_dump(self) -> dict[str, Any]:
        """What a table stores; the variant is the one that is computed."""
        return {**super().safe_model_dump(), "variant": self._vectors.settings["variant"]}

    def ndims(self) -> int:
        """How many numbers a vector has."""
        return self._vectors.form.dimensions

    def generate_embeddings(self, texts: list[str] | NDArray[Any], *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """The vectors of a table's texts, each a float32 [width].

        Raises:
            UsageError: there are other arguments, which nothing here uses.
        """
        _refuse(args, kwargs)
        return list(self._vectors.documents(texts))

    def compute_query_embeddings(self, query: str, *args: Any, **kwargs: Any) -> list[NDArray[np.float32]]:
        """The vector of a query, as the one item of a list; errors are those of `generate_embeddings`."""
        _refuse(args, kwargs)
        return list(self._vectors.queries([single_text(query)]))

    def _of(self, bundle: str | Encoder) -> TextVectors:
        return TextVectors(
            bundle,
            variant=self.variant,
            output=self.output,
            normalize=self.normalize,
            dimensions=self.dimensions,
            query_prompt=self.query_prefix,
            document_prompt=self.document_prefix,
        )


def _refuse(args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    if args or kwargs:
        raise UsageError(f"an embedding call has arguments that nothing uses: {', '.join([*map(repr, args), *kwargs])}; leave them out")
