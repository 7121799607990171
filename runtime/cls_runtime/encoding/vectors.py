"""The last step before vectors leave: none of them NaN, infinite or zero unseen; unit length where asked."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.errors import InvalidVectorError

OnInvalid = Literal["raise", "keep"]

# Lengths that float32 holds with all its digits.
_LONGEST, _SHORTEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def finish_rows(
    rows: NDArray[np.float32],
    *,
    first_index: int,
    normalize: bool,
    on_invalid: OnInvalid,
    zero_is_valid: bool,
    text: int | None = None,
) -> None:
    """Checks rows [n, width] and, with `normalize`, divides each by its L2 norm, in place.

    A zero row has no direction, so with `on_invalid="keep"` it stays zero; NaN stays NaN. A row whose length float32 does not hold (or
    only as a subnormal number) is invalid where it would be divided, and is divided in float64 with `on_invalid="keep"`.

    Args:
        rows: float32 [n, width], changed in place.
        first_index: the index of `rows[0]` in the caller's input, for the error.
        normalize: whether to divide by the norm.
        on_invalid: `raise`, or `keep` to let invalid rows pass.
        zero_is_valid: whether an all-zero row is a result like any other, as logits may be.
        text: the place of the text that all rows are tokens of; None where each row is a text's.

    Raises:
        InvalidVectorError: a row is NaN, infinite or zero, or its length is beyond float32 with `normalize`; with `on_invalid="raise"`.
    """
    squares = np.einsum("nw,nw->n", rows, rows, dtype=np.float64)  # float64: the square of a large float32 overflows
    zero = squares == 0.0
    finite = np.isfinite(squares)
    beyond = finite & ~zero & ((squares > _LONGEST**2) | (squares < _SHORTEST**2)) if normalize else np.zeros_like(zero)
    if on_invalid == "raise":
        invalid = ~finite
        if not zero_is_valid or normalize:
            invalid |= zero
        invalid |= beyond
        if invalid.any():
            raise _invalid(rows, int(np.argmax(invalid)), first_index, text)
    if normalize:
        exact = rows[beyond] / np.sqrt(squares[beyond])[:, None]
        rows /= np.sqrt(np.where(zero | beyond, 1.0, squares))[:, None].astype(np.float32)
        rows[beyond] = exact


def place_of(row: int, first_index: int, text: int | None) -> tuple[str, int]:
    """Which vector a row is, in words, and the text's place: `first_index` and the row, or `text` of which it is a token."""
    return (f"text {first_index + row}", first_index + row) if text is None else (f"token {row} of text {text}", text)


def _invalid(rows: NDArray[np.float32], row: int, first_index: int, text: int | None) -> InvalidVectorError:
    length = float(np.linalg.norm(rows[row].astype(np.float64)))
    what = "NaN" if np.isnan(rows[row]).any() else "an infinity" if np.isinf(rows[row]).any() else "only zeros"
    if length and np.isfinite(length):
        what = f"a length of {length:.3g}, beyond what float32 divides by"
    name, index = place_of(row, first_index, text)
    return InvalidVectorError(
        f"the vector of {name} has {what}, expected finite numbers{' of a usual size' if 'length' in what else ''}; "
        "run cls-verify on the bundle, or pass on_invalid='keep' to receive it",
        index=index,
    )
