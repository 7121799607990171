"""A bundle as txtai's vectors. Needs txtai and an engine: `pip install cls-export[cpu] txtai`."""

from __future__ import annotations

from typing import Any

from txtai.vectors import Vectors

from cls_runtime.encoder import Float32
from cls_runtime.errors import UsageError
from cls_runtime.integrations.text_vectors import TextVectors

_OPTIONS = ("variant", "output")
_CATEGORIES = ("query", "data")


class ClsVectors(Vectors):  # untyped where txtai is not installed
    """Vectors of what an index stores and of queries, each behind the prompt that the model was trained with for them.

        >>> Embeddings(path="models/bge-small-en-v1.5", method="cls_runtime.integrations.txtai.ClsVectors")  # doctest: +SKIP

    txtai makes it from an index's configuration, of which it reads:

    - `path`: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want. An index stores the name;
      the other options of an `Encoder` are not stored.
    - `vectors`: `variant`, as of `Encoder.load`, and `output`, as of `Encoder.encode`. An index stores the variant that is computed.
    - `instructions`: texts of your own instead of the bundle's prompts, by `query` and `data`; "" for none.
    - `dimensionality`: how many numbers of each vector are kept.

    txtai makes every vector unit length.

    Raises:
        BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`. txtai wraps them in an ImportError.
        UsageError: there are other options, or the bundle has no such variant, output or size; wrapped likewise.
    """

    def __init__(self, config: dict[str, Any], scoring: Any, models: Any) -> None:
        given, prompts = (config.get(name) or {} for name in ("vectors", "instructions"))
        _refuse_others("vectors", given, _OPTIONS)
        _refuse_others("instructions", prompts, _CATEGORIES)
        self._vectors = TextVectors(
            config["path"],
            **given,
            dimensions=config.get("dimensionality"),
            query_prompt=prompts.get("query"),
            document_prompt=prompts.get("data"),
        ).load()
        config["path"] = self._vectors.name
        config["vectors"] = {name: self._vectors.settings[name] for name in _OPTIONS}
        super().__init__(config, scoring, models)
        self.instructions = None  # they are prompts here: a model may leave them out of its vectors

    def loadmodel(self, path: str) -> TextVectors:  # noqa: ARG002 - txtai passes it
        """What computes the vectors, loaded already."""
        return self._vectors

    def encode(self, data: list[str], category: str | None = None) -> Float32:
        """The vectors of texts, float32 [n, width], as documents where `category` is `data`, else as queries.

        Raises:
            TypeError: an item is no str.
        """
        return self._vectors.documents(data) if category == "data" else self._vectors.queries(data)


def _refuse_others(name: str, given: Any, known: tuple[str, ...]) -> None:
    others = sorted(set(given) - set(known))
    if others:
        raise UsageError(f"{name} has {', '.join(map(repr, others))}, expected nothing but {' and '.join(known)}; leave it out")
