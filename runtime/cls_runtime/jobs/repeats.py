"""A bounded table of texts that were computed already, so that a text that occurs again is not computed again."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.texts import Text

TABLE_BYTES = 64 * 2**20
_ENTRY_BYTES = 200  # digest, number, and their places in a dict


class RepeatTable:
    """The first distinct texts of a range, as many as fit, by a 128-bit hash, with their vectors.

    Every computed text has a number, counted from 0; numbers below `capacity` are in the table. It keeps the first and drops the rest: what
    is frequent comes early, and what is kept then depends on the rows alone, never on timing.
    """

    def __init__(self, width: int) -> None:
        self.capacity = max(1, TABLE_BYTES // (4 * width + _ENTRY_BYTES))
        self._numbers: dict[bytes, int] = {}
        # Memory that is not touched costs nothing.
        self._vectors = np.empty((self.capacity, width), dtype=np.float32)
        self._truncated = np.zeros(self.capacity, dtype=bool)

    def find(self, text: Text) -> int | None:
        """The number of a text that the table has."""
        return self._numbers.get(_digest(text))

    def add(self, text: Text, number: int) -> None:
        """Remembers that a text has this number, if there is room; its vector comes later."""
        if number < self.capacity:
            self._numbers[_digest(text)] = number

    def store(self, first: int, vectors: NDArray[np.float32], truncated: NDArray[np.bool_]) -> None:
        """Takes the vectors [n, width] of the numbers from `first` on, and which of their texts were cut."""
        room = self.capacity - first
        if room > 0:
            self._vectors[first : first + len(vectors)] = vectors[:room]
            self._truncated[first : first + len(vectors)] = truncated[:room]

    def vectors(self, numbers: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors of numbers below `capacity` that were stored."""
        return self._vectors[numbers]

    def truncated(self, numbers: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of their texts were cut."""
        return self._truncated[numbers]


def _digest(text: Text) -> bytes:
    # A byte that is in no UTF-8 tells a pair from any text, and from any other pair.
    data = text.encode("utf-8") if isinstance(text, str) else b"\xff".join(part.encode("utf-8") for part in text)
    return hashlib.blake2b(data, digest_size=16).digest()
