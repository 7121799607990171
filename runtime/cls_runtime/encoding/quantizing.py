"""Vectors in fewer bytes, bit for bit as sentence-transformers' `quantize_embeddings` makes them of the same numbers and ranges.

https://github.com/UKPLab/sentence-transformers/blob/v6.2.0/sentence_transformers/util/quantization.py
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.vector_options import DType
from cls_runtime.encoding.vectors import place_of
from cls_runtime.errors import InvalidVectorError

Float32 = NDArray[np.float32]

_STEPS = 255
# What float16 rounds to an infinity from, and to zero up to.
HALF_INFINITE, HALF_ZERO = 65520.0, 2.0**-25


def quantized(vectors: Float32, dtype: DType, *, ranges: Float32 | None = None) -> NDArray[Any]:
    """Vectors [n, width] as `dtype`: [n, width], or for `binary` and `ubinary` one bit per dimension, [n, width / 8] rounded up.

    >>> quantized(np.array([[-0.5, 0.0, 0.5]], np.float32), "uint8", ranges=np.array([[-1] * 3, [1] * 3], np.float32)).tolist()
    [[63, 127, 191]]
    >>> quantized(np.array([[-0.5, 0.0, 0.5]], np.float32), "ubinary").tolist()
    [[32]]

    Args:
        vectors: float32 [n, width].
        dtype: what they become.
        ranges: float32 [2, width], the least and the largest of each number, for `int8` and `uint8`; what lies outside becomes the end.
    """
    if dtype == "float32":
        return vectors
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return vectors.astype(np.float16)
    if dtype in ("binary", "ubinary"):
        bits: NDArray[np.uint8] = np.packbits(vectors > 0, axis=-1)
        return bits if dtype == "ubinary" else (bits ^ np.uint8(0x80)).view(np.int8)
    if ranges is None:
        raise ValueError(f"{dtype} needs ranges")
    starts = ranges[0]
    steps = (ranges[1] - starts) / np.float32(_STEPS)
    steps = np.where(steps == 0, np.float32(1), steps)
    with np.errstate(over="ignore"):  # however far outside, it becomes the end
        numbers: Float32 = np.clip(np.floor((vectors - starts) / steps), 0, _STEPS)
    return numbers.astype(np.uint8) if dtype == "uint8" else (numbers - 128).astype(np.int8)


def check_fits(vectors: Float32, dtype: DType, *, first_index: int, keep_invalid: bool, text: int | None = None) -> None:
    """Refuses vectors [n, width] that `dtype` cannot hold.

    A NaN or an infinity has no place among integers and bits, whatever `keep_invalid` says; float16 makes infinities of large numbers and
    only zeros of a very small vector, which it does with `keep_invalid`.

    Raises:
        InvalidVectorError: there is one; `first_index` and `text` say which, as of `finish_rows`.
    """
    if dtype == "float32" or (dtype == "float16" and keep_invalid):
        return
    if dtype == "float16":
        largest = np.abs(vectors).max(axis=-1, initial=0)
        wrong = (largest >= HALF_INFINITE) | ((largest <= HALF_ZERO) & (largest > 0))
    elif keep_invalid:
        wrong = ~np.isfinite(vectors).all(axis=-1)
    else:
        return  # what is not finite was refused before
    if wrong.any():
        row = int(np.argmax(wrong))
        name, index = place_of(row, first_index, text)
        held = f"has {np.abs(vectors[row]).max():.3g} at most"
        if dtype == "float16":
            held += ", float16 ends at 65504" if largest[row] > 1 else ", which float16 rounds to zero"
        else:
            held = f"has numbers that are not finite, which {dtype} cannot hold"
        raise InvalidVectorError(f"the vector of {name} {held}; use float32", index=index)
