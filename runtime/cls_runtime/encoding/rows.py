"""Rows on their way from the graph to their texts: of most outputs one for each text, of `last_hidden_state` one for each token."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.errors import BundleError

Float32 = NDArray[np.float32]
# Of n texts: an array [n, width], or a list of n arrays [tokens, width].
Rows = Float32 | list[Float32]

_NOTHING = np.empty((0, 0), dtype=np.float32)


def is_per_token(output: str) -> bool:
    """Whether the graph's output has a row for each token."""
    return output == GRAPH_OUTPUTS["tokens"]


def empty_rows(count: int, output: str, width: int) -> Rows:
    """Room for the rows of `count` texts."""
    return [_NOTHING] * count if is_per_token(output) else np.empty((count, width), dtype=np.float32)


def place_rows(rows: Rows, vectors: Float32, places: NDArray[np.intp], lengths: NDArray[np.int32]) -> None:
    """Puts a batch's `vectors`, float32 [B, width] or, of texts of these lengths, [T, width], to their `places` [B].

    A list gets copies, so that a text's rows do not hold those of its batch.
    """
    if isinstance(rows, list):
        for place, of_text in zip(places.tolist(), np.split(vectors, np.cumsum(lengths)[:-1]), strict=True):
            rows[place] = of_text.copy()
    else:
        rows[places] = vectors


def check_rows(rows: object, *, texts: int, tokens: int, width: int, output: str) -> None:
    """Holds what an engine gave for a batch to the shape that it must have: numpy would broadcast, cast or drop another.

    Raises:
        BundleError: `rows` is no float32 array [texts, width], or [tokens, width] where the output is of tokens.
    """
    expected = (tokens if is_per_token(output) else texts, width)
    if isinstance(rows, np.ndarray) and rows.dtype == np.float32 and rows.shape == expected:
        return
    given = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
    raise BundleError(
        f"the graph's {output} is {given} for a batch of {texts} texts, expected float32 {list(expected)}; it is not what the manifest "
        "says, copy or export the bundle again"
    )
