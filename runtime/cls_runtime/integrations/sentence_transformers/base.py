"""What a bundle has in common as an embedder and as a reranker: its prompts, its length, its device, and what it does not offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoder import Encoder
from cls_runtime.encoding.prompts import with_prompt
from cls_runtime.encoding.texts import Text, checked_texts
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.errors import UsageError
from cls_runtime.integrations.sentence_transformers.arguments import (
    check_device,
    check_length,
    check_settable,
    given_prompts,
    iterable_of_inputs,
    not_offered,
)
from cls_runtime.integrations.sentence_transformers.tensors import is_dtype


class Evaluations:
    """What evaluators found out, in the place of a model card: `metrics` by evaluator, the newest last."""

    def __init__(self) -> None:
        self.metrics: list[tuple[Any, Mapping[str, Any]]] = []

    def set_evaluation_metrics(self, evaluator: Any, metrics: Mapping[str, Any], epoch: int = 0, step: int = 0) -> None:  # noqa: ARG002
        """Called by each evaluator of sentence-transformers."""
        self.metrics.append((evaluator, dict(metrics)))


class EncoderModel:
    """A bundle with the attributes of sentence-transformers' models.

    Attributes:
        encoder: what computes.
        prompts: the text of each prompt, by its name.
        default_prompt_name: the prompt of calls that name none.
        model_card_data: the results of evaluators.
    """

    _own_prompts: ClassVar[tuple[str, ...]] = ()

    def __init__(self, encoder: Encoder, *, prompts: Mapping[str, str | None] | None, default_prompt_name: str | None) -> None:
        self.encoder = encoder
        given = given_prompts(prompts)
        # What is given goes before what the model has; the names that every model knows are empty where neither says more.
        self.prompts: dict[str, str] = {
            **dict.fromkeys([*self._own_prompts, *(prompts or {})], ""),
            **encoder.manifest.prompts,
            **given,
        }
        self.default_prompt_name = encoder.manifest.default_prompt_name if default_prompt_name is None else default_prompt_name
        if self.default_prompt_name is not None:
            self._prompt(None, self.default_prompt_name)
        self.model_card_data = Evaluations()

    @property
    def device(self) -> str:
        """Where it computes: `cpu`, or a GPU such as `cuda:0`."""
        devices = self.encoder.info.devices
        return f"cuda:{devices[0]}" if devices else "cpu"

    @property
    def max_seq_length(self) -> int:
        """The longest text in tokens, special tokens included. It can be set to what it is, and to nothing else."""
        return self.encoder.manifest.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        self._check_length("max_seq_length", value)

    def get_max_seq_length(self) -> int:
        """`max_seq_length`."""
        return self.max_seq_length

    @property
    def modalities(self) -> list[str]:
        """What it takes: texts."""
        return ["text"]

    def get_backend(self) -> str:
        """The engine that computes."""
        return self.encoder.info.engine

    def eval(self) -> EncoderModel:
        """Itself: a bundle does nothing but evaluate."""
        return self

    def cpu(self) -> EncoderModel:
        """As `to("cpu")`."""
        return self.to("cpu")

    def to(self, device: Any = None, dtype: Any = None, non_blocking: bool = False) -> EncoderModel:  # noqa: ARG002  nothing moves
        """Itself, where `device` is its own.

        Raises:
            UsageError: it is another one, or there is a dtype.
        """
        if dtype is not None or is_dtype(device):
            raise UsageError('a dtype cannot be set; choose a precision with model_kwargs={"file_name": ...}, or give an Encoder')
        check_device(device, own_device=self.device)
        return self

    def evaluate(self, evaluator: Any, output_path: str | None = None) -> Any:
        """What an evaluator of sentence-transformers finds of this model."""
        return evaluator(self, output_path)

    def preprocess(self, inputs: Sequence[Text], prompt: str | None = None) -> dict[str, NDArray[np.int64]]:
        """The tokens of texts or pairs as the model takes them, int64 [n, longest] each: `input_ids`, `attention_mask` and, of a model that
        takes them, `token_type_ids`.

        Raises:
            TypeError, TextError: as `Encoder.encode`.
        """
        texts = checked_texts(iterable_of_inputs(inputs))
        tokens = self._tokenizer.tokenize([with_prompt(prompt, text) for text in texts] if prompt else texts)
        real = np.arange(tokens.lengths.max(initial=0)) < tokens.lengths[:, None]
        columns: dict[str, tuple[Any, int]] = {"input_ids": (tokens.ids, self._tokenizer.pad_id), "attention_mask": (1, 0)}
        if tokens.type_ids is not None:
            columns["token_type_ids"] = (tokens.type_ids, 0)
        features = {}
        for name, (values, padding) in columns.items():
            features[name] = np.full(real.shape, padding, dtype=np.int64)
            features[name][real] = values
        return features

    def tokenize(self, texts: Sequence[Text]) -> dict[str, NDArray[np.int64]]:
        """`preprocess`, by its older name."""
        return self.preprocess(texts)

    @cached_property
    def _tokenizer(self) -> TextTokenizer:
        return TextTokenizer.from_bundle(self.encoder.bundle)

    def forward(self, *_inputs: Any, **_named: Any) -> NoReturn:
        """Not offered: features are PyTorch's.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{type(self).__name__} of cls_runtime is no torch.nn.Module and cannot be called; pass it texts")

    __call__ = forward

    def __getitem__(self, place: Any) -> NoReturn:
        """Not offered, and neither is a loop over a model: these are PyTorch's modules.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            f"{type(self).__name__} of cls_runtime has no modules, and so no [{place!r}]; use the class of sentence-transformers"
        )

    def __setattr__(self, name: str, value: Any) -> None:
        check_settable(self, name)
        super().__setattr__(name, value)

    def __getattr__(self, name: str) -> Any:
        raise not_offered(type(self).__name__, name)

    def _prompt(self, prompt: str | None, prompt_name: str | None) -> str:
        """The text that goes before each text of a call: `prompt`, else the one of that name, else the default one."""
        if prompt is not None:
            return prompt
        name = self.default_prompt_name if prompt_name is None else prompt_name
        if name is None:
            return ""
        if name not in self.prompts:
            known = ", ".join(self.prompts) or "no prompts"
            raise UsageError(f"prompt_name is {name!r}, this model has {known}; pass prompt= for a text of your own")
        return self.prompts[name]

    def _check_length(self, name: str, value: int | None) -> None:
        check_length(name, value, own=self.max_seq_length)
