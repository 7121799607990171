"""sentence-transformers' SentenceTransformer, on an Encoder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, get_args

import numpy as np

from cls_runtime.bundle.manifest import SimilarityFunction
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.similarity import similarity, similarity_pairwise
from cls_runtime.encoding.texts import Text
from cls_runtime.encoding.vector_options import DType
from cls_runtime.errors import UsageError
from cls_runtime.integrations.sentence_transformers.arguments import check_call, check_count, iterable_of_inputs, renamed
from cls_runtime.integrations.sentence_transformers.base import EncoderModel
from cls_runtime.integrations.sentence_transformers.loading import LoadArguments, Name
from cls_runtime.integrations.sentence_transformers.outputs import (
    Container,
    Float32,
    checked_precision,
    each_in_precision,
    in_precision,
    of_unit_length,
)
from cls_runtime.integrations.sentence_transformers.tensors import like_the_inputs

OutputValue = Literal["sentence_embedding", "token_embeddings"]
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class SentenceTransformer(EncoderModel):
    """A bundle, used as sentence-transformers' class of this name is, without PyTorch.

        >>> model = SentenceTransformer("models/all-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.similarity(model.encode_query(["cats?"]), model.encode_document(["a cat", "a dog"])).shape  # doctest: +SKIP
        (1, 2)

    Arguments, defaults and results are those of sentence-transformers 6.2. What differs: `similarity` and token embeddings are NumPy
    arrays where nobody asks for tensors or brings some; a vector that is NaN or zero is an error, as of `Encoder`; `batch_size` changes
    nothing, since an Encoder makes batches by tokens. What a bundle cannot do (train, change its length or its device, run in a pool) is a
    UsageError. Safe to use from several threads.

    Args:
        model_name_or_path: the bundle's folder, its name on the hub, or an `Encoder` loaded with the options that you want.
        modules: None; a bundle has no modules.
        device: `cpu`, `cuda` or a GPU such as `cuda:1`; None for the CPU.
        prompts: texts that go before inputs, by name, over those of the bundle.
        default_prompt_name: the prompt of calls that name none; None for the bundle's.
        cache_folder: None; set HF_HUB_CACHE.
        trust_remote_code: either; a bundle has no code.
        revision: a branch, a tag or a commit of the hub.
        local_files_only: take a bundle of the hub from the cache, without the network.
        token: None or True; set HF_TOKEN.
        use_auth_token: as `token`.
        model_kwargs: `file_name` (one of the bundle's graphs), `dtype` (`float32`, `float16`, `bfloat16`), `provider`.
        processor_kwargs: None; the tokenizer is the bundle's.
        config_kwargs: None; so is the configuration.
        model_card_data: None; a bundle has its card.
        backend: `onnx`, `openvino`, or None for the fastest engine that is installed.
        similarity_fn_name: `cosine`, `dot`, `euclidean` or `manhattan`; None for the bundle's, or the cosine.
        truncate_dim: how many numbers of each vector are kept; None for the bundle's choice.

    Raises:
        UsageError: an argument that a bundle cannot honour; the message says what to do.
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
    """

    _own_prompts = ("query", "document")

    @renamed(tokenizer_kwargs="processor_kwargs")
    def __init__(
        self,
        model_name_or_path: Name | Encoder | None = None,
        *,
        modules: Any = None,
        device: str | None = None,
        prompts: Mapping[str, str | None] | None = None,
        default_prompt_name: str | None = None,
        cache_folder: str | None = None,
        trust_remote_code: bool = False,  # noqa: ARG002  there is no code to trust
        revision: str | None = None,
        local_files_only: bool = False,
        token: bool | str | None = None,
        use_auth_token: bool | str | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: Literal["onnx", "openvino"] | None = None,
        similarity_fn_name: SimilarityFunction | None = None,
        truncate_dim: int | None = None,
    ) -> None:
        arguments = LoadArguments(
            modules=modules,
            device=device,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=use_auth_token if token is None else token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
            backend=backend,
        )
        function = None if similarity_fn_name is None else _similarity_function(similarity_fn_name)
        dimensions = _checked_dimensions(truncate_dim)
        super().__init__(arguments.encoder(model_name_or_path), prompts=prompts, default_prompt_name=default_prompt_name)
        manifest = self.encoder.manifest
        self._truncate_dim = manifest.truncate_dim if dimensions is None else dimensions
        self._similarity_fn_name: SimilarityFunction = function or manifest.similarity_fn_name or "cosine"

    @renamed(sentences="inputs")
    def encode(
        self,
        inputs: Sequence[Text] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: DType | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,  # noqa: ARG002  of a pool
        *,
        task: str | None = None,  # noqa: ARG002  which of a model's routes; the model of a bundle has one
        processing_kwargs: None = None,
    ) -> Any:
        """The vectors of texts, as sentence-transformers' `encode` gives them.

        Args:
            inputs: a text, or a list of texts or of pairs (str, str).
            prompt_name: which prompt goes before each text; None for the default one.
            prompt: the prompt itself.
            batch_size: no effect.
            show_progress_bar: draw a bar on standard error, with tqdm.
            output_value: `sentence_embedding`; `token_embeddings` for a list of arrays [tokens, hidden], of a bundle with token rows; None
                for a list of dicts with both and the tokens.
            precision: `float32`, or `int8`, `uint8`, `binary`, `ubinary`. int8 and uint8 divide the range of these very vectors.
            convert_to_numpy: False for a list of tensors, which needs torch.
            convert_to_tensor: one tensor, which needs torch.
            device: None, or the model's own.
            normalize_embeddings: divide each vector by its L2 norm, after it is cut; without it as the model's modules give it.
            truncate_dim: how many numbers of each vector are kept; None for the model's `truncate_dim`.
            pool: None.
            chunk_size: no effect without a pool.
            task: no effect.
            processing_kwargs: None.

        Returns:
            `precision` [n, width], or [width] of one text; an empty array [0] for an empty list.

        Raises:
            UsageError: an argument that a bundle cannot honour.
            MissingExtraError: tensors without torch, or a bar without tqdm.
            TypeError, TextError, InvalidVectorError, EngineError, ClosedError: as `Encoder.encode`.
        """
        check_call(batch_size=batch_size, device=device, own_device=self.device, pool=pool, processing_kwargs=processing_kwargs)
        if output_value is not None and output_value not in get_args(OutputValue):
            raise UsageError(f"output_value is {output_value!r}, expected one of {', '.join(get_args(OutputValue))}, or None")
        _checked_dimensions(truncate_dim)
        dtype = checked_precision(precision)
        container = Container(to_numpy=convert_to_numpy, to_tensor=convert_to_tensor, is_single=isinstance(inputs, str))
        container.check()
        texts = [inputs] if isinstance(inputs, str) else iterable_of_inputs(inputs)
        text = self._prompt(prompt, prompt_name)
        bar = show_progress_bar is True
        if output_value == "token_embeddings":
            rows = self.encoder.encode(texts, output="tokens", prompt=text, show_progress=bar)
            return container.of_each(each_in_precision(rows, dtype))
        if output_value is None:
            if dtype != "float32":
                raise UsageError(f"precision is {precision!r} and output_value None, expected one without the other")
            return container.of_each(self._features(list(texts), text, truncate_dim, show_progress=bar))
        vectors = self._vectors(texts, text, truncate_dim, show_progress=bar)
        if normalize_embeddings:
            vectors = of_unit_length(vectors)
        return container.of_rows(in_precision(vectors, dtype) if len(vectors) else vectors)

    @renamed(sentences="inputs")
    def encode_query(
        self,
        inputs: Sequence[Text] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: DType | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        processing_kwargs: None = None,
    ) -> Any:
        """`encode` behind the prompt that is called `query`, where no other one is named."""
        return self.encode(
            inputs,
            self._first_prompt(("query",), prompt_name, prompt),
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task=task,
            processing_kwargs=processing_kwargs,
        )

    @renamed(sentences="inputs")
    def encode_document(
        self,
        inputs: Sequence[Text] | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        output_value: OutputValue | None = "sentence_embedding",
        precision: DType | None = "float32",
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        normalize_embeddings: bool = False,
        truncate_dim: int | None = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        task: str | None = None,
        processing_kwargs: None = None,
    ) -> Any:
        """`encode` behind the prompt that is called `document`, `passage` or `corpus`, where no other one is named."""
        return self.encode(
            inputs,
            self._first_prompt(_DOCUMENT_PROMPTS, prompt_name, prompt),
            prompt,
            batch_size,
            show_progress_bar,
            output_value,
            precision,
            convert_to_numpy,
            convert_to_tensor,
            device,
            normalize_embeddings,
            truncate_dim,
            pool,
            chunk_size,
            task=task,
            processing_kwargs=processing_kwargs,
        )

    @property
    def similarity_fn_name(self) -> SimilarityFunction:
        """The function of `similarity`."""
        return self._similarity_fn_name

    @similarity_fn_name.setter
    def similarity_fn_name(self, value: SimilarityFunction | None) -> None:
        self._similarity_fn_name = "cosine" if value is None else _similarity_function(value)

    @property
    def truncate_dim(self) -> int | None:
        """How many numbers of each vector are kept; None for all."""
        return self._truncate_dim

    @truncate_dim.setter
    def truncate_dim(self, value: int | None) -> None:
        self._truncate_dim = _checked_dimensions(value)

    def similarity(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How alike each vector of one collection is with each of the other.

        Returns:
            float32 [n, m], the higher the more alike; a tensor where one of both is a tensor, else an array.

        Raises:
            UsageError: these are no vectors of one width.
        """
        return like_the_inputs(lambda a, b: similarity(a, b, function=self.similarity_fn_name), embeddings1, embeddings2)

    def similarity_pairwise(self, embeddings1: Any, embeddings2: Any) -> Any:
        """How alike each vector is with the one that has its place in the other collection.

        Returns:
            float32 [n]; a tensor where one of both is a tensor, else an array.

        Raises:
            UsageError: these are no vectors of one width, or not as many.
        """
        return like_the_inputs(lambda a, b: similarity_pairwise(a, b, function=self.similarity_fn_name), embeddings1, embeddings2)

    def get_embedding_dimension(self) -> int:
        """The vectors' width."""
        width = self.encoder.manifest.width("sentence")
        return width if self.truncate_dim is None else min(width, self.truncate_dim)

    def get_sentence_embedding_dimension(self) -> int:
        """`get_embedding_dimension`, by its older name."""
        return self.get_embedding_dimension()

    @contextlib.contextmanager
    def truncate_embeddings(self, truncate_dim: int | None) -> Iterator[None]:
        """Within it, `truncate_dim` is another one, for all threads."""
        _checked_dimensions(truncate_dim)
        before = self.truncate_dim
        try:
            self.truncate_dim = truncate_dim
            yield
        finally:
            self.truncate_dim = before

    def truncate_sentence_embeddings(self, truncate_dim: int | None) -> contextlib.AbstractContextManager[None]:
        """`truncate_embeddings`, by its older name."""
        return self.truncate_embeddings(truncate_dim)

    def _first_prompt(self, names: Sequence[str], prompt_name: str | None, prompt: str | None) -> str | None:
        if prompt_name is not None or prompt is not None:
            return prompt_name
        return next((name for name in names if name in self.prompts), None)

    def _vectors(self, texts: Iterable[Text], prompt: str, truncate_dim: int | None, *, show_progress: bool) -> Float32:
        """Vectors [n, width] as the model's modules give them, cut."""
        manifest = self.encoder.manifest
        width, trained = manifest.width("sentence"), manifest.source_pooling.normalize
        vectors = self.encoder.encode(texts, prompt=prompt, dimensions=width, normalize=trained, show_progress=show_progress)
        dimensions = self.truncate_dim if truncate_dim is None else truncate_dim
        result: Float32 = np.ascontiguousarray(vectors[:, :dimensions])
        return result

    def _features(self, texts: list[Text], prompt: str, truncate_dim: int | None, *, show_progress: bool) -> list[dict[str, Any]]:
        """Of each text its tokens, their rows and its vector, by sentence-transformers' names and without padding."""
        rows = self.encoder.encode(texts, output="tokens", prompt=prompt, show_progress=show_progress)
        vectors = self._vectors(texts, prompt, truncate_dim, show_progress=show_progress)
        return [
            {
                **{name: value[0] for name, value in self.preprocess([text], prompt).items()},
                "token_embeddings": row,
                "sentence_embedding": vector,
            }
            for text, row, vector in zip(texts, rows, vectors, strict=True)
        ]


def _similarity_function(value: Any) -> SimilarityFunction:
    """The name of a function, which sentence-transformers' own enumeration may give.

    Raises:
        UsageError: there is none of that name.
    """
    name = getattr(value, "value", value)
    for known in get_args(SimilarityFunction):
        if name == known:
            function: SimilarityFunction = known
            return function
    raise UsageError(f"similarity_fn_name is {name!r}, expected one of {', '.join(get_args(SimilarityFunction))}")


def _checked_dimensions(truncate_dim: int | None) -> int | None:
    if truncate_dim is not None:
        check_count("truncate_dim", truncate_dim, or_none=True)
    return truncate_dim
