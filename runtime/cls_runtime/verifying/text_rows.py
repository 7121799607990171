"""The rows that checks compare, and whose they are: of most outputs one for each text, of `tokens` a few of each text's.

>>> rows = TextRows.of([np.zeros((2, 3), np.float32), np.zeros((40, 3), np.float32)])
>>> len(rows.vectors), rows.texts[:3]
(10, (0, 0, 1))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.golden import GOLDEN_NAME
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.parity import parity_figures
from cls_runtime.bundle.token_sample import sampled_positions
from cls_runtime.errors import BundleError

Float32 = NDArray[np.float32]


@dataclass(frozen=True)
class TextRows:
    """Rows of texts: `vectors` float32 [R, width], and for each the index of its text in the input."""

    vectors: Float32
    texts: tuple[int, ...]

    @classmethod
    def of(cls, encoded: Float32 | Sequence[Float32], positions: Sequence[Sequence[int]] | None = None) -> TextRows:
        """The rows to compare of what an encoder gave for n texts: [n, width], or n arrays [tokens, width].

        Args:
            encoded: the encoder's answer.
            positions: which tokens' rows of each text; None for those of `sampled_positions`.

        Raises:
            BundleError: `positions` has one that a text's rows do not reach.
        """
        if isinstance(encoded, np.ndarray):
            return cls(encoded, tuple(range(len(encoded))))
        wanted = [sampled_positions(len(rows)).tolist() for rows in encoded] if positions is None else positions
        for index, (rows, places) in enumerate(zip(encoded, wanted, strict=True)):
            if len(places) and places[-1] >= len(rows):
                raise BundleError(
                    f"{GOLDEN_NAME} has the row of token {places[-1]} of text {index}, which gets {len(rows)} tokens; the check of the "
                    "tokens says why"
                )
        return cls._joined([rows[list(places)] for rows, places in zip(encoded, wanted, strict=True)])

    @classmethod
    def all_of(cls, encoded: Float32 | Sequence[Float32]) -> TextRows:
        """Every row that an encoder gave."""
        return cls.of(encoded) if isinstance(encoded, np.ndarray) else cls._joined(encoded)

    @classmethod
    def _joined(cls, parts: Sequence[Float32]) -> TextRows:
        return cls(np.concatenate(parts), tuple(index for index, part in enumerate(parts) for _ in part))

    def figures(self, reference: Float32) -> ParityFigures:
        """Their parity figures against `reference`, of the same shape: figures of rows, numbers of texts."""
        figures = parity_figures(reference, self.vectors)
        return replace(figures, texts=len({*self.texts}), worst_text=self.texts[figures.worst_text])
