"""The last step before vectors leave: none of them NaN, infinite or zero unseen; unit length where asked."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.errors import BundleError, InvalidVectorError

OnInvalid = Literal["raise", "keep"]

# Lengths that float32 holds with all its digits.
_LONGEST, _SHORTEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)


def check_rows(rows: object, *, count: int, width: int, output: str) -> None:
    """Holds what an engine gave to the shape that it must have: numpy would broadcast, cast or drop what has another.

    Raises:
        BundleError: `rows` is no float32 array [count, width].
    """
    if isinstance(rows, np.ndarray) and rows.dtype == np.float32 and rows.shape == (count, width):
        return
    given = f"{rows.dtype} {list(rows.shape)}" if isinstance(rows, np.ndarray) else type(rows).__name__
    raise BundleError(
        f"the graph's {output} is {given} for a batch of {count} texts, expected float32 {[count, width]}; it is not what the manifest "
        "says, copy or export the bundle again"
    )


def finish_rows(rows: NDArray[np.float32], *, first_index: int, normalize: bool, on_invalid: OnInvalid, zero_is_valid: bool) -> None:
    """Checks rows [n, width] and, with `normalize`, divides each by its L2 norm, in place.

    A zero row has no direction, so with `on_invalid="keep"` it stays zero; NaN stays NaN. A row whose length float32 does not hold (or
    only as a subnormal number) is invalid where it would be divided, and is divided in float64 with `on_invalid="keep"`.

    Args:
        rows: float32 [n, width], changed in place.
        first_index: the index of `rows[0]` in the caller's input, for the error.
        normalize: whether to divide by the norm.
        on_invalid: `raise`, or `keep` to let invalid rows pass.
        zero_is_valid: whether an all-zero row is a result like any other, as logits may be.

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
            raise _invalid(rows, int(np.argmax(invalid)), first_index)
    if normalize:
        exact = rows[beyond] / np.sqrt(squares[beyond])[:, None]
        rows /= np.sqrt(np.where(zero | beyond, 1.0, squares))[:, None].astype(np.float32)
        rows[beyond] = exact


def _invalid(rows: NDArray[np.float32], row: int, first_index: int) -> InvalidVectorError:
    length = float(np.linalg.norm(rows[row].astype(np.float64)))
    what = "NaN" if np.isnan(rows[row]).any() else "an infinity" if np.isinf(rows[row]).any() else "only zeros"
    if length and np.isfinite(length):
        what = f"a length of {length:.3g}, beyond what float32 divides by"
    return InvalidVectorError(
        f"the vector of text {first_index + row} has {what}, expected finite numbers{' of a usual size' if 'length' in what else ''}; "
        "run cls-verify on the bundle, or pass on_invalid='keep' to receive it",
        index=first_index + row,
    )
