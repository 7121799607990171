"""Rows of the graph become what the caller asked for: checked, cut, of unit length, in fewer bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.quantizing import check_fits, quantized
from cls_runtime.encoding.rows import Rows
from cls_runtime.encoding.vector_options import VectorForm
from cls_runtime.encoding.vectors import OnInvalid, finish_rows

Float32 = NDArray[np.float32]
# An array [n, width], or of `tokens` a list of arrays [tokens, width]; whoever names the output knows which, a type checker does not.
Vectors = Any


def finished(rows: Rows, form: VectorForm, *, indices: Sequence[int], ranges: Float32 | None, on_invalid: OnInvalid) -> Vectors:
    """The vectors that leave, of `rows`, which may be changed.

    Args:
        rows: what the graph gave for n texts.
        form: what becomes of it.
        indices: the n texts' places in the caller's input, one after the other, for errors.
        ranges: float32 [2, form.dimensions] for int8 and uint8.
        on_invalid: `raise`, or `keep` to let invalid vectors pass where the dtype can hold them.

    Raises:
        InvalidVectorError: as `finish_rows` and `check_fits`.
    """
    first = indices[0] if indices else 0
    if isinstance(rows, list):
        return [_of_tokens(of_text, form, index=first + place, on_invalid=on_invalid) for place, of_text in enumerate(rows)]
    vectors = unquantized(rows, form, first_index=first, on_invalid=on_invalid)
    check_fits(vectors, form.dtype, first_index=first, keep_invalid=on_invalid == "keep")
    return quantized(vectors, form.dtype, ranges=ranges)


def unquantized(rows: Float32, form: VectorForm, *, first_index: int, on_invalid: OnInvalid) -> Float32:
    """The float32 vectors [n, form.dimensions] of rows [n, form.width], which may be changed."""
    zero_is_valid = form.output == "logits"
    if form.normalize_whole:
        finish_rows(rows, first_index=first_index, normalize=True, on_invalid=on_invalid, zero_is_valid=zero_is_valid)
    if form.dimensions < form.width:
        rows = rows[:, : form.dimensions].copy()
    finish_rows(rows, first_index=first_index, normalize=form.normalize, on_invalid=on_invalid, zero_is_valid=zero_is_valid)
    return rows


def _of_tokens(rows: Float32, form: VectorForm, *, index: int, on_invalid: OnInvalid) -> NDArray[Any]:
    """A text's token rows [tokens, width]."""
    finish_rows(rows, first_index=0, normalize=form.normalize, on_invalid=on_invalid, zero_is_valid=False, text=index)
    check_fits(rows, form.dtype, first_index=0, keep_invalid=on_invalid == "keep", text=index)
    return quantized(rows, form.dtype)
