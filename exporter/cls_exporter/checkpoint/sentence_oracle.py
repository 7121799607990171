"""sentence-transformers, loaded from the checkpoint's own folder, against what was read of that folder here.

It is the one that knows what its files mean, in the version that is installed, so an export asks it wherever it is (docs/adr/0010).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cls_exporter.checkpoint.config_fields import as_integer
from cls_exporter.checkpoint.load import Checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.checkpoint.sentence_model import CannotAskError, asked, is_reranker, model_of, version
from cls_exporter.checkpoint.sentence_use import UNSAID_PROMPTS
from cls_exporter.checkpoint.weights import some_of
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.encoding.texts import Text

# Capitals, accents, digits, marks, scripts, what looks like special tokens, and space at the ends.
_TEXTS = (
    "The CAT sat on the mat.",
    "Ünïcödé ﬁne, naïve café — 12,345.67% (don't)!",
    "a [SEP] b </s> c [MASK] <s> d [CLS]",
    "中文 日本語 한국어 русский العربية हिन्दी",
    "  two  spaces\tand a tab\n",
    "x",
)
_LONGER = 16  # words that a text has beyond the longest that is taken whole
_NEXT = (
    "correct the folder, or export a copy without modules.json as a plain encoder; if the folder is as it was published, please report "
    "this with its JSON files"
)


def check_against_sentence_transformers(checkpoint: Checkpoint, *, lowered: bool, own_tokens: bool = False) -> tuple[str, ...]:
    """Holds a checkpoint, as it was read, to sentence-transformers, and gives notes for the report. A plain one is held to nothing.

    Compared are the tokens, what it puts before texts, and the vectors that it gives: of the texts alone, behind the default prompt and
    behind another one. Where another pooling was knowingly passed over, they are those of the same modules with the one that is exported.
    Of a reranker it is the tokens of pairs, and the logits where they are exported.

    Args:
        checkpoint: as loaded.
        lowered: its longest text was lowered by the caller.
        own_tokens: the caller knows that transformers makes other tokens of some texts; those texts are not compared.

    Raises:
        CheckpointError: sentence-transformers makes other tokens or another vector of a text, which is named, or takes longer texts.
        UnsupportedError: the folder has settings that are not known, and sentence-transformers cannot be asked about them.
    """
    if not checkpoint.has_sentence_modules:
        _refuse_unknown(checkpoint, "it reads them only in the folder of a whole model")
        return ()
    try:
        with model_of(checkpoint) as load:
            oracle = _Oracle(checkpoint, load)
            oracle.check_longest(lowered=lowered)
            oracle.check_tokens(own_tokens=own_tokens)
            oracle.check_prompts()
            oracle.check_activation()
            oracle.check_rows()
    except CannotAskError as reason:
        _refuse_unknown(checkpoint, str(reason))
        return (f"not compared with sentence-transformers: {reason}",)
    unknown = checkpoint.unknown_settings
    told = (f"unknown settings, without effect in sentence-transformers: {some_of(unknown)}",) if unknown else ()
    if is_reranker(checkpoint) and "logits" not in checkpoint.model.output_names:
        same = "tokens, except where transformers gives others" if own_tokens else "tokens"
    else:
        same = "vectors for texts with the same tokens" if own_tokens else "tokens and vectors"
    return (f"sentence-transformers {version()} gives the same {same}", *told)


def _refuse_unknown(checkpoint: Checkpoint, reason: str) -> None:
    if checkpoint.unknown_settings:
        raise UnsupportedError(
            f"{some_of(checkpoint.unknown_settings)} is not known, and sentence-transformers cannot be asked ({reason}); remove the entry "
            "in a copy of the checkpoint if it has no effect"
        )


_Given = Mapping[str, list[NDArray[np.float32]]]


class _Oracle:
    """A sentence-transformers model beside the checkpoint that was read from the same folder; both cut texts at the same length.

    `load` loads the model with a seed for what is drawn, which is nothing where all weights are there.
    """

    def __init__(self, checkpoint: Checkpoint, load: Callable[[int], Any]) -> None:
        self._checkpoint = checkpoint
        self._load = load
        self._texts = _pairs() if is_reranker(checkpoint) else _TEXTS
        self._model, self._longest = self._loaded(0)

    def _loaded(self, seed: int) -> tuple[Any, Any]:
        """The model, with the pooling that is exported, and the longest text that it takes by itself."""
        model, checkpoint = self._load(seed), self._checkpoint
        longest = as_integer(model.max_seq_length)
        if not isinstance(longest, (int, float)):
            raise CannotAskError(f"its max_seq_length is {shown(longest)}")
        model.max_seq_length = checkpoint.max_length
        if checkpoint.source_pooling.mismatch_allowed:
            name, pooling = next((name, module) for name, module in model.named_children() if type(module).__name__ == "Pooling")
            with asked():
                width, include_prompt = checkpoint.config.hidden_size, checkpoint.source_pooling.include_prompt
                model.add_module(name, type(pooling)(width, pooling_mode=checkpoint.pooling, include_prompt=include_prompt))
        return model, longest

    def check_longest(self, *, lowered: bool) -> None:
        """The longest text is the same, but for positions that the model has not and what the caller lowered."""
        ours, positions = self._checkpoint.max_length, self._checkpoint.architecture.positions(self._checkpoint.config)
        theirs = self._longest if positions is None else min(self._longest, positions)
        if ours > theirs or (ours < theirs and not lowered):
            raise CheckpointError(
                f"sentence-transformers {version()} reads a limit of {self._longest} tokens from this folder, cls-export reads {ours}; "
                f"{_NEXT}"
            )

    def check_tokens(self, *, own_tokens: bool) -> None:
        """Each text, and one that is too long, becomes the same tokens, alone and behind prompts."""
        long_text = "cat " * (self._checkpoint.max_length + _LONGER)
        prompts = ["", *(prompt for prompt, _ in self._promptings())]
        for text, prompt in itertools.product((*self._texts, long_text), prompts):
            (ours,) = checkpoint_token_ids(self._checkpoint, [text], prompt=prompt)
            with asked():
                theirs = tuple(self._features(text, prompt)["input_ids"][0].tolist())
            if ours != theirs and own_tokens:
                self._texts = tuple(other for other in self._texts if other != text)
            elif ours != theirs:
                place = next(index for index in range(len(ours) + 1) if ours[: index + 1] != theirs[: index + 1])
                raise CheckpointError(
                    f"sentence-transformers {version()} makes {self._tokens(theirs, place)} of {_in_words(text, prompt)}, cls-export makes "
                    f"{self._tokens(ours, place)}; {_NEXT}"
                )

    def check_activation(self) -> None:
        """The logits become scores in the same way."""
        ours = self._checkpoint.logits_activation
        if ours is None or not is_reranker(self._checkpoint):
            return
        theirs = type(self._model.activation_fn).__name__
        if theirs.lower() != ours:
            raise CheckpointError(f"sentence-transformers {version()} applies {theirs} to the logits, cls-export reads {ours}; {_NEXT}")

    def check_prompts(self) -> None:
        """What goes before texts is the same, by its name and where none is asked for."""
        use = self._checkpoint.use
        with asked():
            theirs, default = {**self._model.prompts}, self._model.default_prompt_name
        ours = {**dict.fromkeys(theirs.keys() & {*UNSAID_PROMPTS}, ""), **use.prompts}
        if theirs != ours or theirs.get(default, "") != use.default_prompt:
            raise CheckpointError(
                f"sentence-transformers {version()} reads the prompts {shown(theirs)} (default {shown(default)}), cls-export reads "
                f"{shown(ours)} (default {shown(use.default_prompt_name)}); {_NEXT}"
            )

    def check_rows(self) -> None:
        """The texts' vectors are the same, alone and behind prompts, within what fp32 is held to."""
        held = ("logits",) if is_reranker(self._checkpoint) else ("tokens", self._checkpoint.model.sentence_output)
        outputs = [output for output in held if output in self._checkpoint.model.output_names]
        if not outputs or not self._texts:
            return
        alone: tuple[str, Mapping[str, Any]] = ("", {"prompt": ""})
        for prompt, options in (alone, *self._promptings()):
            ours, theirs = checkpoint_vectors(self._checkpoint, self._texts, prompt=prompt), self._given(options)
            for output in outputs:
                self._hold(output, self._as_given(ours[output], output), theirs, prompt, options)

    def _promptings(self) -> list[tuple[str, Mapping[str, Any]]]:
        """The default prompt, and another one by its name: each as it is read here, and what makes sentence-transformers take it."""
        use = self._checkpoint.use
        default: list[tuple[str, Mapping[str, Any]]] = [(use.default_prompt, {})] if use.default_prompt else []
        named = next((name for name, text in use.prompts.items() if text and name != use.default_prompt_name), None)
        return default if named is None else [*default, (use.prompts[named], {"prompt_name": named})]

    def _hold(self, output: str, ours: NDArray[np.float32], given: _Given, prompt: str, options: Mapping[str, Any]) -> None:
        """Holds one output of all texts behind `prompt` to what sentence-transformers gave with `options`."""
        theirs = np.concatenate(given[output])
        if theirs.shape != ours.shape:
            raise CheckpointError(
                f"sentence-transformers {version()} gives vectors of {theirs.shape[1]} numbers, cls-export of {ours.shape[1]}; {_NEXT}"
            )
        figures = parity_figures(theirs, ours)
        if missed := shortfalls(figures, thresholds_for("fp32", output)):
            self._check_not_drawn(output, theirs, options)
            owners = [text for text, rows in zip(self._texts, given[output], strict=True) for _ in rows]
            raise CheckpointError(
                f"sentence-transformers {version()} gives another vector of {_in_words(owners[figures.worst_text], prompt)} than "
                f"cls-export: {'; '.join(missed)}; {_NEXT}"
            )

    def _as_given(self, rows: NDArray[np.float32], output: str) -> NDArray[np.float32]:
        """Vectors as the source's users get them: of unit length and cut, where it says so."""
        if output not in ("cls", "sentence"):
            return rows
        if self._checkpoint.source_pooling.normalize:
            rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return rows[:, : self._checkpoint.use.truncate_dim]

    def _check_not_drawn(self, output: str, rows: NDArray[np.float32], options: Mapping[str, Any]) -> None:
        """What transformers draws for weights that it does not find is nobody's vector: weights may lie where only this exporter looks."""
        self._model, _ = self._loaded(1)
        if not np.array_equal(rows, np.concatenate(self._given(options)[output])):
            raise CannotAskError("it does not find all weights in this folder and initializes the others at random")

    def _given(self, options: Mapping[str, Any]) -> _Given:
        """What it gives for each text alone: by output a row [1, width] a text, of `tokens` a sample of its rows."""
        texts, options = list(self._texts), {"batch_size": 1, "show_progress_bar": False, **options}
        with asked():
            if is_reranker(self._checkpoint):
                scores = self._model.predict(texts, activation_fn=torch.nn.Identity(), **options)
                return {"logits": [np.reshape(row, (1, -1)) for row in scores]}
            features = self._model.encode(texts, output_value=None, **options)
            rows = [item["token_embeddings"].numpy() for item in features]
            return {
                "tokens": [item[sampled_positions(len(item))] for item in rows],
                self._checkpoint.model.sentence_output: [item["sentence_embedding"].numpy()[None] for item in features],
            }

    def _tokens(self, ids: Sequence[int], place: int) -> str:
        """How many there are, and the first of them from `place` on, for a message."""
        names = self._checkpoint.tokenizer.convert_ids_to_tokens(list(ids[place : place + 4]))
        return f"{len(ids)} tokens with {shown(names)} from {place} on"

    def _features(self, text: Text, prompt: str) -> Any:
        tokenize = getattr(self._model, "preprocess", None) or self._model.tokenize
        return tokenize([text], **({"prompt": prompt} if prompt else {}))


def _in_words(text: Text, prompt: str) -> str:
    return f"{shown(text)} with the prompt {shown(prompt)}" if prompt else shown(text)


def _pairs() -> tuple[Text, ...]:
    return tuple(zip(_TEXTS, reversed(_TEXTS), strict=True))
