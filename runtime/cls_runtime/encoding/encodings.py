"""The tokenizers library's encodings of texts, read into arrays and cut to the tokens that the model takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding

from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.encoding.truncating import kept_positions
from cls_runtime.engines.base import Int32

# Of one text of which nothing was cut.
_NONE, _NO = np.zeros(1, dtype=np.intp), np.zeros(1, dtype=np.bool_)


@dataclass(frozen=True, eq=False, kw_only=True)
class Located:
    """One text's tokens, and where they are in it.

    Attributes:
        encoding: the library's, of as much of the text as was tokenized.
        kept: which of its tokens stay, as positions in it [S].
        ids: theirs, int32 [S].
        before: how many characters of the text (of each text of a pair) are before what was tokenized.
        removed: how many tokens were over the maximum length, `at_least` so many.
    """

    encoding: Encoding
    kept: NDArray[np.intp]
    ids: Int32
    before: Sequence[int]
    removed: int = 0
    at_least: bool = False


@dataclass(frozen=True, kw_only=True)
class EncodingReader:
    """Makes arrays of encodings.

    Attributes:
        max_length: the tokens of a text that the model takes at most.
        with_type_ids: whether it takes type ids.
        check_ids: refuses token ids [n] that are none of the model's.
    """

    max_length: int
    with_type_ids: bool
    check_ids: Callable[[NDArray[np.int64]], None]

    def tokens(
        self, encodings: Sequence[Encoding], *, truncate_left: bool, at_least: bool = False, types_are_zero: bool = False
    ) -> TokenizedTexts:
        """Their tokens, without those over the maximum length.

        Args:
            encodings: of one text or pair each; none are no texts.
            truncate_left: whether the end of a text stays that is too long.
            at_least: whether they are of less than the whole texts.
            types_are_zero: whether it is known that all of their type ids are 0.

        Raises:
            BundleError: `check_ids` refuses one.
        """
        whole = _flat([encoding.ids for encoding in encodings])
        self.check_ids(whole)
        count = len(whole)
        ids, type_ids = whole.astype(np.int32), None
        if self.with_type_ids and types_are_zero:
            type_ids = np.zeros(count, dtype=np.int32)
        elif self.with_type_ids:
            type_ids = _flat([encoding.type_ids for encoding in encodings]).astype(np.int32)
        if len(encodings) == 1 and count <= self.max_length:
            return TokenizedTexts(ids=ids, lengths=np.array([count], dtype=np.intp), type_ids=type_ids, removed=_NONE, at_least=_NO)
        lengths = np.fromiter(map(len, encodings), dtype=np.intp, count=len(encodings))
        removed = np.maximum(lengths - self.max_length, 0)
        cut = removed.nonzero()[0]
        if len(cut):
            stays = np.ones(count, dtype=np.bool_)
            for place, end in zip(cut.tolist(), lengths.cumsum()[cut].tolist(), strict=True):
                of_text = stays[end - lengths[place] : end]
                of_text[:] = False
                of_text[kept_positions(encodings[place].sequence_ids, self.max_length, truncate_left=truncate_left)] = True
            ids, type_ids = ids[stays], None if type_ids is None else type_ids[stays]
            lengths = lengths - removed
        return TokenizedTexts(ids=ids, lengths=lengths, type_ids=type_ids, removed=removed, at_least=(removed > 0) & at_least)


def _flat(lists: Sequence[Sequence[int]]) -> NDArray[np.int64]:
    """The numbers of all lists, one after another; of a single list the quicker way."""
    if len(lists) == 1:
        return np.array(lists[0], dtype=np.int64)
    return np.fromiter(chain.from_iterable(lists), dtype=np.int64, count=sum(map(len, lists)))
