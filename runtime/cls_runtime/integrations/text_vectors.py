"""`TextVectors`: what every integration does with a bundle, for hosts that tell queries from documents."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from typing import Any, cast

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoder import Encoder, Float32
from cls_runtime.encoding.inputs import iterable_of_texts
from cls_runtime.encoding.prompts import DOCUMENT, QUERY
from cls_runtime.encoding.texts import checked_text
from cls_runtime.encoding.vector_options import VectorForm, VectorOptions
from cls_runtime.errors import UsageError

_LOADING = threading.Lock()  # of the module, so that a host may copy and pickle what it holds
# More than that is a bulk job: `Encoder.aencode` would refuse it, or let nobody else wait.
_MOST_TEXTS, _MOST_CHARACTERS = 1024, 2**22


class TextVectors:
    """A bundle and the options of its vectors. It is loaded by `load`, or with the first text.

    Args:
        bundle: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        variant: as of `Encoder.load`; with an `Encoder`, the one that it computes, or `auto`.
        output: `sentence`, or another output with one row per text.
        normalize: divide each vector by its L2 norm; None for the model's own choice.
        dimensions: how many numbers of each vector are kept; None for the model's own choice.
        query_prompt: goes before each query; None for the bundle's own prompt, "" for none.
        document_prompt: goes before each document; likewise.

    Raises:
        UsageError: an option makes no sense, or does not fit the `Encoder`.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Encoder,
        *,
        variant: str = "auto",
        output: Output = "sentence",
        normalize: bool | None = None,
        dimensions: int | None = None,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
    ) -> None:
        if not isinstance(bundle, (str, os.PathLike, Encoder)):
            raise UsageError(f"the bundle is a {type(bundle).__name__}, expected its folder, its name on the hub, or an Encoder")
        if output == "tokens":
            raise UsageError("output is 'tokens', expected one with a row per text: sentence, cls, pooler, logits")
        self._bundle = bundle
        self._variant = variant
        self._queries, self._documents = (
            VectorOptions(output=output, normalize=normalize, prompt_name=name, prompt=prompt, dimensions=dimensions)
            for name, prompt in ((QUERY, query_prompt), (DOCUMENT, document_prompt))
        )
        self._encoder: Encoder | None = None
        if isinstance(bundle, Encoder):
            if variant not in ("auto", bundle.info.variant):
                raise UsageError(f"variant is {variant!r}, the Encoder computes {bundle.info.variant!r}; load it with variant={variant!r}")
            self.load()

    def load(self) -> TextVectors:
        """Loads the bundle where it is not loaded yet, and checks the options against it.

        Raises:
            BundleError, EngineError, HubError, IntegrityError, MissingExtraError: as `Encoder.load`.
            UsageError: the bundle has no such variant or output, or vectors of fewer dimensions.
        """
        with _LOADING:
            if self._encoder is None:
                bundle = self._bundle
                encoder = bundle if isinstance(bundle, Encoder) else Encoder.load(bundle, variant=self._variant)
                for options in (self._queries, self._documents):
                    options.of(encoder.manifest)
                self._encoder = encoder
        return self

    @property
    def encoder(self) -> Encoder:
        """What computes the vectors. Errors are those of `load`."""
        encoder = self._encoder
        return encoder if encoder is not None else self.load().encoder

    @property
    def name(self) -> str:
        """What finds the bundle: the folder or the name that was given; of an `Encoder`, that of its bundle."""
        return self._bundle.bundle.name if isinstance(self._bundle, Encoder) else os.fspath(self._bundle)

    @property
    def settings(self) -> dict[str, Any]:
        """`variant`, `output`, `normalize` and `dimensions`, as a host can store them in JSON.

        Once the bundle is loaded, the variant is the one that is computed, not `auto`.
        """
        variant = self._variant if self._encoder is None else self._encoder.info.variant
        options = self._queries
        return {"variant": variant, "output": options.output, "normalize": options.normalize, "dimensions": options.dimensions}

    @property
    def form(self) -> VectorForm:
        """What a document's vector is, nothing left open. Errors are those of `load`."""
        return self._documents.of(self.encoder.manifest)

    @property
    def tells_queries_apart(self) -> bool:
        """Whether a text has another vector as a query than as a document. Errors are those of `load`."""
        return self._queries.of(self.encoder.manifest).prompt != self.form.prompt

    def queries(self, texts: Iterable[str]) -> Float32:
        """The vectors of queries.

        Args:
            texts: a list or another ordered iterable of str; not a str.

        Returns:
            float32 [n, width] in input order.

        Raises:
            TypeError: `texts` is a str or another thing that holds no texts, or an item is no str.
            TextError, TextTooLongError, InvalidVectorError, EngineError, ClosedError: as `Encoder.encode`.
        """
        return self._encode(texts, self._queries)

    def documents(self, texts: Iterable[str]) -> Float32:
        """The vectors of documents; arguments, result and errors are those of `queries`."""
        return self._encode(texts, self._documents)

    async def aqueries(self, texts: Iterable[str]) -> Float32:
        """`queries` for asyncio: through `Encoder.aencode`, and where there are too many texts for that, in a thread.

        Raises:
            OverloadedError: as `Encoder.aencode`. Other errors are those of `queries`.
        """
        return await self._aencode(texts, self._queries)

    async def adocuments(self, texts: Iterable[str]) -> Float32:
        """`documents` for asyncio, as `aqueries`."""
        return await self._aencode(texts, self._documents)

    def _encode(self, texts: Iterable[str], options: VectorOptions) -> Float32:
        return cast("Float32", self.encoder.encode(single_texts(texts), **_arguments(options)))

    async def _aencode(self, texts: Iterable[str], options: VectorOptions) -> Float32:
        import asyncio  # whoever awaits has it

        plain = single_texts(texts)
        if self._encoder is None:
            await asyncio.to_thread(self.load)
        if len(plain) > _MOST_TEXTS or sum(map(len, plain)) > _MOST_CHARACTERS:
            return await asyncio.to_thread(self._encode, plain, options)
        return cast("Float32", await self.encoder.aencode(plain, **_arguments(options)))


def _arguments(options: VectorOptions) -> dict[str, Any]:
    """The options as arguments of `Encoder.encode` and `Encoder.aencode`."""
    return {name: getattr(options, name) for name in ("output", "normalize", "prompt_name", "prompt", "dimensions")}


def lists_of(rows: Float32) -> list[list[float]]:
    """Vectors [n, width] as the lists that some hosts take."""
    lists: list[list[float]] = rows.tolist()
    return lists


def single_texts(texts: Iterable[str]) -> list[str]:
    """All texts, each a plain str; a pair has no place in these hosts.

    Raises:
        TypeError: `texts` is a str or another thing that holds no texts, or an item is no str.
    """
    return [single_text(text, index) for index, text in enumerate(iterable_of_texts(texts))]


def single_text(text: object, index: int = 0) -> str:
    """A text as a plain str.

    Raises:
        TypeError: it is something else; `index` is its place in the message.
    """
    checked = checked_text(text, index)
    if not isinstance(checked, str):
        raise TypeError(f"text {index} is a pair, expected a str")
    return checked
