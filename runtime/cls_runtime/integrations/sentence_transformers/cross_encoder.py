"""sentence-transformers' CrossEncoder, on an Encoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import LogitsActivation
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.scores import scores_of
from cls_runtime.errors import UsageError
from cls_runtime.integrations.sentence_transformers.arguments import check_call, iterable_of_inputs, renamed
from cls_runtime.integrations.sentence_transformers.base import EncoderModel
from cls_runtime.integrations.sentence_transformers.loading import LoadArguments, Name
from cls_runtime.integrations.sentence_transformers.outputs import Container
from cls_runtime.integrations.sentence_transformers.tensors import is_tensor, torch_for

Pair = Sequence[str]
Activation = LogitsActivation | Callable[[Any], Any]


@dataclass(frozen=True)
class Labels:
    """The labels of a classifier: how many, and their names both ways."""

    num_labels: int
    id2label: Mapping[int, str]
    label2id: Mapping[str, int]


class CrossEncoder(EncoderModel):
    """A bundle with logits, used as sentence-transformers' class of this name is, without PyTorch.

        >>> model = CrossEncoder("models/ms-marco-MiniLM-L6-v2")  # doctest: +SKIP
        >>> model.rank("cats?", ["a cat", "a dog"])[0]["corpus_id"]  # doctest: +SKIP
        0

    Arguments, defaults and results are those of sentence-transformers 6.2. `batch_size` changes nothing, and what a bundle cannot do is
    a UsageError. Safe to use from several threads.

    Args:
        model_name_or_path: as of `SentenceTransformer`; so are all arguments that are not named here. A bundle with logits.
        num_labels: None, or as many labels as it has.
        max_length: None, or where it cuts pairs.
        activation_fn: what makes scores of logits: `identity`, `sigmoid`, `softmax`, `tanh`, `relu`, `gelu`, or a function of a tensor
            [n, labels], which needs torch; None for the bundle's, which is that of its checkpoint.
        keep_in_fp32_modules: None.

    Raises:
        UsageError: an argument that a bundle cannot honour, or a bundle without logits.
        BundleError, EngineError, IntegrityError, MissingExtraError: as `Encoder.load`.
    """

    @renamed(
        model_name="model_name_or_path",
        automodel_args="model_kwargs",
        tokenizer_args="processor_kwargs",
        tokenizer_kwargs="processor_kwargs",
        config_args="config_kwargs",
        cache_dir="cache_folder",
        default_activation_function="activation_fn",
    )
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
        model_kwargs: Mapping[str, Any] | None = None,
        processor_kwargs: Mapping[str, Any] | None = None,
        config_kwargs: Mapping[str, Any] | None = None,
        model_card_data: Any = None,
        backend: Literal["onnx", "openvino"] | None = None,
        num_labels: int | None = None,
        max_length: int | None = None,
        activation_fn: Activation | None = None,
        keep_in_fp32_modules: Sequence[str] | None = None,
    ) -> None:
        if keep_in_fp32_modules:
            raise UsageError("keep_in_fp32_modules names modules of PyTorch, which a bundle has not; leave it out")
        arguments = LoadArguments(
            modules=modules,
            device=device,
            cache_folder=cache_folder,
            revision=revision,
            local_files_only=local_files_only,
            token=token,
            model_kwargs=model_kwargs,
            processor_kwargs=processor_kwargs,
            config_kwargs=config_kwargs,
            model_card_data=model_card_data,
            backend=backend,
        )
        super().__init__(arguments.encoder(model_name_or_path), prompts=prompts, default_prompt_name=default_prompt_name)
        own = self.num_labels
        if num_labels is not None and num_labels != own:
            raise UsageError(f"num_labels is {num_labels!r}, this bundle has {own}; leave it out")
        self._check_length("max_length", max_length)
        recorded: LogitsActivation = self.encoder.manifest.logits_activation or ("sigmoid" if own == 1 else "identity")
        self._activation_fn: Activation = recorded if activation_fn is None else _checked_activation(activation_fn)

    @property
    def num_labels(self) -> int:
        """How many logits a pair has."""
        return self.encoder.manifest.width("logits")

    @property
    def activation_fn(self) -> Activation:
        """What makes scores of logits. Set to None, it leaves the logits as they are."""
        return self._activation_fn

    @activation_fn.setter
    def activation_fn(self, value: Activation | None) -> None:
        self._activation_fn = "identity" if value is None else _checked_activation(value)

    @property
    def default_activation_function(self) -> Activation:
        """`activation_fn`, by its older name."""
        return self.activation_fn

    @default_activation_function.setter
    def default_activation_function(self, value: Activation | None) -> None:
        self.activation_fn = value

    @property
    def config(self) -> Labels:
        """The labels."""
        names = self.encoder.manifest.labels or tuple(f"LABEL_{label}" for label in range(self.num_labels))
        return Labels(self.num_labels, dict(enumerate(names)), {name: label for label, name in enumerate(names)})

    @property
    def max_length(self) -> int:
        """`max_seq_length`, by its older name."""
        return self.max_seq_length

    @max_length.setter
    def max_length(self, value: int) -> None:
        self._check_length("max_length", value)

    @renamed(sentences="inputs", activation_fct="activation_fn")
    def predict(
        self,
        inputs: Sequence[Pair] | Pair | str,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        apply_softmax: bool | None = False,
        convert_to_numpy: bool = True,
        convert_to_tensor: bool = False,
        device: Any = None,
        pool: None = None,
        chunk_size: int | None = None,  # noqa: ARG002  of a pool
        *,
        num_workers: int = 0,  # noqa: ARG002  without effect there too
        processing_kwargs: None = None,
    ) -> Any:
        """The scores of pairs, as sentence-transformers' `predict` gives them.

        Args:
            inputs: a pair of texts, or a list of pairs; or one text, of a classifier of texts.
            prompt_name: which prompt goes before the first text of each pair; None for the default one.
            prompt: the prompt itself.
            batch_size: no effect.
            show_progress_bar: draw a bar on standard error, with tqdm.
            activation_fn: as of the class; None for the model's.
            apply_softmax: make the scores of several labels add up to 1.
            convert_to_numpy: False for a list of tensors, which needs torch.
            convert_to_tensor: one tensor, which needs torch.
            device: None, or the model's own.
            pool: None.
            chunk_size: no effect without a pool.
            num_workers: no effect.
            processing_kwargs: None.

        Returns:
            float32 [n] of one label, [n, labels] of several, and without the first axis of one pair; an empty array [0] for an empty list.

        Raises:
            UsageError: an argument that a bundle cannot honour.
            MissingExtraError: tensors, or a function of tensors, without torch.
            TypeError, TextError, InvalidVectorError, EngineError, ClosedError: as `Encoder.encode`.
        """
        check_call(batch_size=batch_size, device=device, own_device=self.device, pool=pool, processing_kwargs=processing_kwargs)
        activation = self.activation_fn if activation_fn is None else _checked_activation(activation_fn)
        given: Any = inputs if isinstance(inputs, str) else list(iterable_of_inputs(inputs))
        is_single = isinstance(given, str) or (len(given) > 0 and isinstance(given[0], str))
        container = Container(to_numpy=convert_to_numpy, to_tensor=convert_to_tensor, is_single=is_single)
        container.check()
        logits = self.encoder.encode(
            [given] if is_single else given,
            output="logits",
            prompt=self._prompt(prompt, prompt_name),
            show_progress=show_progress_bar is True,
        )
        return container.of_rows(_scores(logits, activation, softmax=bool(apply_softmax)))

    @renamed(activation_fct="activation_fn")
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        top_k: int | None = None,
        return_documents: bool = False,
        prompt_name: str | None = None,
        prompt: str | None = None,
        batch_size: int = 32,
        show_progress_bar: bool | None = None,
        activation_fn: Activation | None = None,
        device: Any = None,
        pool: None = None,
        chunk_size: int | None = None,
        *,
        apply_softmax: bool | None = False,  # noqa: ARG002  without effect in 6 too, as the three below
        convert_to_numpy: bool = True,  # noqa: ARG002
        convert_to_tensor: bool = False,  # noqa: ARG002
        num_workers: int = 0,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Documents by their score beside a query, the highest first.

        Args:
            query: the first text of each pair.
            documents: the second ones.
            top_k: how many documents, at most; None for all.
            return_documents: give the documents too.
            prompt_name: as of `predict`; so are all that follow.
            prompt: as of `predict`.
            batch_size: no effect.
            show_progress_bar: as of `predict`.
            activation_fn: as of `predict`.
            device: as of `predict`.
            pool: None.
            chunk_size: no effect without a pool.
            apply_softmax: no effect; an argument of version 5.
            convert_to_numpy: no effect; likewise.
            convert_to_tensor: no effect; likewise.
            num_workers: no effect; likewise.

        Returns:
            Of each document `corpus_id` (its place in `documents`), `score` and perhaps `text`.

        Raises:
            UsageError: the bundle has several labels; or as `predict`.
            MissingExtraError, TypeError, TextError, InvalidVectorError, EngineError, ClosedError: as `predict`.
        """
        if self.num_labels != 1:
            raise UsageError(f"rank needs one score for each document, this bundle has {self.num_labels} labels; use predict")
        listed: list[Any] = list(iterable_of_inputs(documents))
        scores = self.predict(
            [(query, document) for document in listed],
            prompt_name,
            prompt,
            batch_size,
            show_progress_bar,
            activation_fn,
            device=device,
            pool=pool,
            chunk_size=chunk_size,
        ).tolist()
        found: list[dict[str, Any]] = [{"corpus_id": place, "score": score} for place, score in enumerate(scores)]
        if return_documents:
            found = [{**item, "text": listed[item["corpus_id"]]} for item in found]
        return sorted(found, key=lambda item: float(item["score"]), reverse=True)[:top_k]


def _checked_activation(activation: Any) -> Activation:
    if activation in get_args(LogitsActivation) or callable(activation):
        checked: Activation = activation
        return checked
    raise UsageError(f"activation_fn is {activation!r}, expected one of {', '.join(get_args(LogitsActivation))}, or a function")


def _scores(logits: NDArray[np.float32], activation: Activation, *, softmax: bool) -> NDArray[np.float32]:
    """Scores [n, labels] of logits [n, labels]; of one label [n]."""
    if not len(logits):
        return logits
    scores: NDArray[Any]
    scores = scores_of(logits, activation) if isinstance(activation, str) else _scores_of_function(logits, activation)
    if logits.shape[1] == 1 and scores.ndim > 1:
        scores = scores[:, 0]
    if softmax and scores.ndim > 1:
        scores = scores_of(scores.astype(np.float32), "softmax")
    return scores.astype(np.float32)


def _scores_of_function(logits: NDArray[np.float32], activation: Callable[[Any], Any]) -> NDArray[np.float64]:
    """What a function of a tensor [n, labels] makes of logits [n, labels]."""
    result = activation(torch_for("a function as activation_fn").from_numpy(logits))
    if not is_tensor(result) or tuple(result.shape[:1]) != logits.shape[:1]:
        found = f"a tensor of shape {list(result.shape)}" if is_tensor(result) else f"a {type(result).__name__}"
        raise UsageError(f"activation_fn gives {found}, expected a tensor with a row for each of {len(logits)} pairs")
    scores: NDArray[np.float64] = result.detach().cpu().double().numpy()
    return scores
