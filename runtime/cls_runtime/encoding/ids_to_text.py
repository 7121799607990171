"""Token ids to the text that they stand for, as far as a tokenizer can put it together again."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from tokenizers import Tokenizer

from cls_runtime.encoding.tokenizer_files import one_line
from cls_runtime.errors import TextError, is_refusal


class IdsToText:
    """A tokenizer's decoder, which is given its own ids only: the library leaves out what it does not know, and says nothing."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        ids = list(tokenizer.get_vocab(with_added_tokens=True).values())
        self._known = np.zeros(max(ids, default=-1) + 1, dtype=np.bool_)  # of each id up to the largest, whether it is a token's
        self._known[ids] = True

    def text(self, ids: Sequence[int], index: int, *, skip_special_tokens: bool) -> str:
        """The text of `ids`.

        Raises:
            TextError: an id is no token's, or the library fails; `index` is the place of `ids` in the caller's input.
        """
        try:
            array = np.asarray(ids)
        except (ValueError, OverflowError):  # lists of unequal length
            array = np.zeros((), dtype=np.object_)
        if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
            raise TextError(f"list {index} does not hold whole numbers of at most 64 bits", index=index)
        unknown = array[(array < 0) | (array >= len(self._known))]
        if array.size and not unknown.size:
            unknown = array[~self._known[array]]
        if unknown.size:
            raise TextError(
                f"list {index} has the id {int(unknown[0])}, which no token has; this model's ids are 0 to {len(self._known) - 1}",
                index=index,
            )
        try:
            text: str = self._tokenizer.decode(array.tolist() if array.size else [], skip_special_tokens=skip_special_tokens)
        except BaseException as error:  # TypeError or the bare class, by version; or a panic
            if not is_refusal(error):
                raise
            raise TextError(f"the tokenizer refused list {index}: {one_line(error)}", index=index) from None
        return text
