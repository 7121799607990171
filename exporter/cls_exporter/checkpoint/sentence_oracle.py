"""sentence-transformers, loaded from the checkpoint's own folder, against what was read of that folder here.

It is the one that knows what its files mean, in the version that is installed, so an export asks it wherever it is (docs/adr/0010).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cls_exporter.checkpoint.config_fields import as_integer
from cls_exporter.checkpoint.load import Checkpoint
from cls_exporter.checkpoint.reference import checkpoint_token_ids, checkpoint_vectors
from cls_exporter.checkpoint.sentence_model import CannotAskError, asked, is_reranker, model_of, version
from cls_exporter.checkpoint.weights import some_of
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import Output
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.encoding.tokenizer import Text

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
    "correct the folder, or export a copy without modules.json as a plain encoder; if it is as it was published, please report it with the "
    "folder's JSON files"
)


def check_against_sentence_transformers(checkpoint: Checkpoint, *, lowered: bool, own_tokens: bool = False) -> tuple[str, ...]:
    """Holds a checkpoint, as it was read, to sentence-transformers, and gives notes for the report. A plain one is held to nothing.

    Compared are the tokens and the row behind every module, or, where another pooling was knowingly passed over, what the same modules make
    of row 0; of a reranker the tokens of pairs, and the logits where they are exported.

    Args:
        checkpoint: as loaded.
        lowered: its longest text was lowered by the caller.
        own_tokens: the caller knows that transformers makes other tokens of some texts; those texts are not compared.

    Raises:
        CheckpointError: sentence-transformers makes other tokens or another vector of a text, which is named, or takes longer texts.
        UnsupportedError: the folder has settings that are not known, and sentence-transformers cannot be asked about them.
    """
    if not checkpoint.has_sentence_modules:
        _refuse_unknown(checkpoint, "it reads them in the folder of a whole model only")
        return ()
    try:
        with model_of(checkpoint) as load:
            oracle = _Oracle(checkpoint, load)
            oracle.check_longest(lowered=lowered)
            oracle.check_tokens(own_tokens=own_tokens)
            oracle.check_activation()
            oracle.check_rows()
    except CannotAskError as reason:
        _refuse_unknown(checkpoint, str(reason))
        return (f"not compared with sentence-transformers: {reason}",)
    unknown = checkpoint.unknown_settings
    told = (f"not known here, and without effect in sentence-transformers: {some_of(unknown)}",) if unknown else ()
    if is_reranker(checkpoint) and "logits" not in checkpoint.model.output_names:
        same = "tokens, except where transformers makes others" if own_tokens else "tokens"
    else:
        same = "vectors where its tokens are the same" if own_tokens else "tokens and vectors"
    return (f"sentence-transformers {version()} gives the same {same}", *told)


def _refuse_unknown(checkpoint: Checkpoint, reason: str) -> None:
    if checkpoint.unknown_settings:
        raise UnsupportedError(
            f"nothing here says what {some_of(checkpoint.unknown_settings)} does, and sentence-transformers, which may know, cannot be "
            f"asked ({reason}); remove the entry from a copy if it has no effect"
        )


class _Oracle:
    """A sentence-transformers model beside the checkpoint that was read from the same folder; both cut texts at the same length.

    `load` loads the model with a seed for what is drawn, which is nothing where all weights are there.
    """

    def __init__(self, checkpoint: Checkpoint, load: Callable[[int], Any]) -> None:
        self._checkpoint = checkpoint
        self._load = load
        self._texts = _pairs() if is_reranker(checkpoint) else _TEXTS
        self._model = load(0)
        self._longest = as_integer(self._model.max_seq_length)
        if not isinstance(self._longest, (int, float)):
            raise CannotAskError(f"its max_seq_length is {shown(self._longest)}")
        self._model.max_seq_length = checkpoint.max_length

    def check_longest(self, *, lowered: bool) -> None:
        """The longest text is the same, but for positions that the model has not and what the caller lowered."""
        ours, positions = self._checkpoint.max_length, self._checkpoint.architecture.positions(self._checkpoint.config)
        theirs = self._longest if positions is None else min(self._longest, positions)
        if ours > theirs or (ours < theirs and not lowered):
            raise CheckpointError(
                f"sentence-transformers {version()} takes texts of {self._longest} tokens from this folder, {ours} were read here; {_NEXT}"
            )

    def check_tokens(self, *, own_tokens: bool) -> None:
        """Each text, and one that is too long, becomes the same tokens."""
        long_text = "cat " * (self._checkpoint.max_length + _LONGER)
        for text in (*self._texts, long_text):
            (ours,) = checkpoint_token_ids(self._checkpoint, [text])
            with asked():
                theirs = tuple(self._features(text)["input_ids"][0].tolist())
            if ours != theirs and own_tokens:
                self._texts = tuple(other for other in self._texts if other != text)
            elif ours != theirs:
                place = next(index for index in range(len(ours) + 1) if ours[: index + 1] != theirs[: index + 1])
                raise CheckpointError(
                    f"sentence-transformers {version()} makes {self._tokens(theirs, place)} of {shown(text)} from this folder, "
                    f"and {self._tokens(ours, place)} were read here; {_NEXT}"
                )

    def check_activation(self) -> None:
        """The logits become scores in the same way."""
        ours = self._checkpoint.logits_activation
        if ours is None or not is_reranker(self._checkpoint):
            return
        theirs = type(self._model.activation_fn).__name__
        if theirs.lower() != ours:
            raise CheckpointError(
                f"sentence-transformers {version()} applies {theirs} to the logits, {ours} was read of this folder; {_NEXT}"
            )

    def check_rows(self) -> None:
        """The texts' vectors are the same, within what fp32 is held to."""
        output: Output = "logits" if is_reranker(self._checkpoint) else self._checkpoint.model.sentence_output
        if output not in self._checkpoint.model.output_names or not self._texts:
            return
        ours = checkpoint_vectors(self._checkpoint, self._texts)[output]
        if self._checkpoint.source_pooling.normalize:
            ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
        theirs = self._rows()
        if theirs.shape != ours.shape:
            raise CheckpointError(
                f"sentence-transformers {version()} gives {theirs.shape[1]} numbers a text from this folder, {ours.shape[1]} here; {_NEXT}"
            )
        figures = parity_figures(theirs, ours)
        if missed := shortfalls(figures, thresholds_for("fp32", output)):
            self._check_not_drawn(theirs)
            raise CheckpointError(
                f"sentence-transformers {version()} gives another vector of {shown(self._texts[figures.worst_text])} than what was read "
                f"of this folder: {'; '.join(missed)}; {_NEXT}"
            )

    def _check_not_drawn(self, rows: NDArray[np.float32]) -> None:
        """What transformers draws for weights that it does not find is nobody's vector: weights may lie where only this exporter looks."""
        self._model = self._load(1)
        self._model.max_seq_length = self._checkpoint.max_length
        if not np.array_equal(rows, self._rows()):
            raise CannotAskError("it does not find all weights in this folder and draws others at random")

    def _tokens(self, ids: Sequence[int], place: int) -> str:
        """How many there are, and the first of them from `place` on, for a message."""
        names = self._checkpoint.tokenizer.convert_ids_to_tokens(list(ids[place : place + 4]))
        return f"{len(ids)} tokens with {shown(names)} from {place} on"

    def _features(self, text: Text) -> Any:
        tokenize = getattr(self._model, "preprocess", None) or self._model.tokenize
        return tokenize([text])

    def _rows(self) -> NDArray[np.float32]:
        with asked():
            return np.stack([self._row(text) for text in self._texts])

    def _row(self, text: Text) -> NDArray[np.float32]:
        """The row that all modules make of a text alone; the pooling takes row 0 where another one was passed over."""
        features = self._features(text)
        with torch.inference_mode():
            for module in self._model:
                features = module(features)
                if type(module).__name__ == "Pooling" and self._checkpoint.source_pooling.mismatch_allowed:
                    features["sentence_embedding"] = features["token_embeddings"][:, 0]
        row = features["scores" if is_reranker(self._checkpoint) else "sentence_embedding"][0]
        return np.asarray(row.float().numpy())


def _pairs() -> tuple[Text, ...]:
    return tuple(zip(_TEXTS, reversed(_TEXTS), strict=True))
