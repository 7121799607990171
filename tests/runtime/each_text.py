"""Texts among `TokenizedTexts` and `TokenBatch`, one by one, as a test looks at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.base import TokenBatch


@dataclass(frozen=True)
class OneText:
    """A text's tokens, and what was cut of it."""

    ids: list[int]
    type_ids: list[int] | None
    removed: int
    at_least: bool


def each_text(texts: TokenizedTexts) -> list[OneText]:
    """The texts in their order."""
    return [
        OneText(
            ids=texts.ids[start:stop].tolist(),
            type_ids=None if texts.type_ids is None else texts.type_ids[start:stop].tolist(),
            removed=int(texts.removed[place]),
            at_least=bool(texts.at_least[place]),
        )
        for place, (start, stop) in enumerate(zip(texts.offsets[:-1], texts.offsets[1:], strict=True))
    ]


def with_token(batch: TokenBatch, token: int) -> NDArray[np.bool_]:
    """Which texts of a batch have this token [B]."""
    return np.logical_or.reduceat(batch.input_ids == token, batch.offsets[:-1])
