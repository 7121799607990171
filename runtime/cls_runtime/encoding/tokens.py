"""Many texts as tokens: arrays over all of them, so that a text costs no object of its own between the tokenizer and the engine."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from cls_runtime.engines.base import Int32, TokenBatch

Intp = NDArray[np.intp]


@dataclass(frozen=True, eq=False, kw_only=True)
class TokenizedTexts:
    """The tokens of n texts, one text after another, T in all.

    Attributes:
        ids: int32 [T].
        lengths: the tokens of each text [n].
        type_ids: int32 [T]; None where the model takes none.
        removed: how many tokens of each text were over the maximum length [n].
        at_least: of which texts there were more, since they were not tokenized to their end; bool [n].
    """

    ids: Int32
    lengths: Intp
    type_ids: Int32 | None
    removed: Intp
    at_least: NDArray[np.bool_]

    @classmethod
    def of(cls, texts: Sequence[Sequence[int]], type_ids: Sequence[Sequence[int]] | None = None) -> TokenizedTexts:
        """Of token ids, text by text, none of which was cut; without `type_ids` the model takes none.

        >>> TokenizedTexts.of([[5, 6], [7]]).lengths.tolist()
        [2, 1]
        """
        return cls(
            ids=_joined(texts),
            lengths=np.array([len(text) for text in texts], dtype=np.intp),
            type_ids=None if type_ids is None else _joined(type_ids),
            removed=np.zeros(len(texts), dtype=np.intp),
            at_least=np.zeros(len(texts), dtype=np.bool_),
        )

    @classmethod
    def joined(cls, parts: Sequence[TokenizedTexts]) -> TokenizedTexts:
        """The texts of all parts, of which there is one at least."""
        if len(parts) == 1:
            return parts[0]
        type_ids = [part.type_ids for part in parts if part.type_ids is not None]
        return cls(
            ids=np.concatenate([part.ids for part in parts]),
            lengths=np.concatenate([part.lengths for part in parts]),
            type_ids=np.concatenate(type_ids) if type_ids else None,
            removed=np.concatenate([part.removed for part in parts]),
            at_least=np.concatenate([part.at_least for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def offsets(self) -> Intp:
        """Where each text begins, and behind them where the last one ends [n + 1]."""
        return np.concatenate([np.zeros(1, dtype=np.intp), self.lengths.cumsum()])

    def first(self, count: int) -> TokenizedTexts:
        """The first `count` texts, or all where there are fewer."""
        tokens = int(self.offsets[min(count, len(self))])
        return TokenizedTexts(
            ids=self.ids[:tokens],
            lengths=self.lengths[:count],
            type_ids=None if self.type_ids is None else self.type_ids[:tokens],
            removed=self.removed[:count],
            at_least=self.at_least[:count],
        )

    def token_ids(self) -> list[tuple[int, ...]]:
        """The ids of each text."""
        ids, offsets = self.ids.tolist(), self.offsets.tolist()
        return [tuple(ids[start:stop]) for start, stop in itertools.pairwise(offsets)]

    def batch(
        self, indices: Intp, *, pad_id: int, unpooled: NDArray[np.integer] | None = None, token_budget: int | None = None
    ) -> TokenBatch:
        """The texts at `indices`, in that order, as an engine takes them.

        Args:
            indices: the places of one text or more.
            pad_id: what an engine pads with. A text without a token gets one of it, as it has a row all the same.
            unpooled: how many of the first tokens of each of the n texts are read and not pooled.
            token_budget: as of `TokenBatch`.
        """
        lengths = self.lengths[indices]
        ids, type_ids = self.ids, self.type_ids
        if len(self.lengths) > 1 or len(lengths) > 1:
            ends = lengths.cumsum()
            # The place of each token of the batch in `ids`: those of the batch from 0 on, moved by where its text begins there and here.
            places = np.arange(ends[-1]) + (self.offsets[indices] - (ends - lengths)).repeat(lengths)
            ids, type_ids = ids[places], None if type_ids is None else type_ids[places]
        if not lengths.all():
            empty = (lengths.cumsum() - lengths)[lengths == 0]
            ids = np.insert(ids, empty, pad_id)
            type_ids = None if type_ids is None else np.insert(type_ids, empty, 0)
            lengths = np.maximum(lengths, 1)
        return TokenBatch(
            input_ids=ids,
            lengths=lengths.astype(np.int32),
            token_type_ids=type_ids,
            unpooled=None if unpooled is None else unpooled[indices].astype(np.int32),
            pad_id=pad_id,
            token_budget=token_budget,
        )


def _joined(texts: Sequence[Sequence[int]]) -> Int32:
    return np.array([token for text in texts for token in text], dtype=np.int32)
