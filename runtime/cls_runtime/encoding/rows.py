"""Rows on their way from the graph to their texts: of most outputs one for each text, of `last_hidden_state` one for each token."""

from __future__ import annotations

from collections.abc import Sequence, Sized

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


def place_rows(rows: Rows, vectors: Float32, places: NDArray[np.intp], texts: Sequence[Sized]) -> None:
    """Puts a batch's `vectors`, float32 [B, width] or [B, S, width], to their `places`, those of `texts`.

    A list gets copies, so that a text's rows do not hold those of its batch.
    """
    if isinstance(rows, list):
        for place, text, of_text in zip(places.tolist(), texts, vectors):  # noqa: B905  the batch may repeat its last text
            rows[place] = of_text[: len(text)].copy()
    else:
        rows[places] = vectors[: len(places)]


def check_rows(rows: object, *, count: int, tokens: int, width: int, output: str) -> None:
    """Holds what an engine gave for a batch [count, tokens] to the shape that it must have: numpy would broadcast, cast or drop another.

    Raises:
        BundleError: `rows` is no float32 array [count, width], or [count, tokens, width] where the output is of tokens.
    """
    expected = (count, tokens, width) if is_per_token(output) else (count, width)
    if isinstance(rows, np.ndarray) and rows.dtype == np.float32 and rows.shape == expected:
        return
    given = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
    raise BundleError(
        f"the graph's {output} is {given} for a batch of {count} texts, expected float32 {list(expected)}; it is not what the manifest "
        "says, copy or export the bundle again"
    )
