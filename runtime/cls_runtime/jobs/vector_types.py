"""How vectors are stored: as float32, float16, or int8 with a scale for each row."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cls_runtime.errors import InvalidVectorError
from cls_runtime.jobs.columns import EMBEDDING, SCALE
from cls_runtime.reading.parquet_files import require_pyarrow

VectorType = Literal["float32", "float16", "int8"]


def vector_fields(dtype: VectorType, width: int) -> list[Any]:
    """The Arrow fields of a vector: `embedding`, and with int8 `embedding_scale`: vector = embedding * embedding_scale."""
    pa = require_pyarrow("Parquet shards")
    numbers = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}[dtype]
    fields = [pa.field(EMBEDDING, pa.list_(numbers, width))]
    return [*fields, pa.field(SCALE, pa.float32())] if dtype == "int8" else fields


def vector_arrays(vectors: NDArray[np.float32], missing: NDArray[np.bool_], *, dtype: VectorType) -> list[Any]:
    """Arrow arrays for `vector_fields`; float32 without missing rows is not copied.

    Args:
        vectors: float32 [n, width].
        missing: bool [n], the rows that become null.
        dtype: how they are stored.

    Raises:
        InvalidVectorError: float16 or int8, and a number is too large or a whole vector too small for it.
    """
    import pyarrow as pa

    scales: NDArray[np.float32] | None = None
    stored: NDArray[Any] = vectors
    if missing.any():
        vectors = np.where(missing[:, None], np.float32(0), vectors)
        stored = vectors
    if dtype == "float16":
        stored = _half(vectors)
    if dtype == "int8":
        stored, scales = quantized(vectors)
    mask = pa.array(missing) if missing.any() else None
    values = pa.array(np.ascontiguousarray(stored).reshape(-1))
    arrays = [pa.FixedSizeListArray.from_arrays(values, type=pa.list_(values.type, vectors.shape[1]), mask=mask)]
    if scales is not None:
        arrays.append(pa.array(scales, mask=missing))
    return arrays


def quantized(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Vectors [n, width] as int8 in [-127, 127] and a scale [n] for each, the row's largest magnitude / 127; a zero row has scale 0.

    >>> numbers, scales = quantized(np.array([[1.0, -0.5]], dtype=np.float32))
    >>> numbers.tolist(), round(float(scales[0] * 127), 6)
    ([[127, -64]], 1.0)

    Raises:
        InvalidVectorError: a scale is not finite, or zero where the vector is not.
    """
    scales = np.abs(vectors).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
    wrong = ~np.isfinite(scales) | ((scales == 0) & vectors.any(axis=1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InvalidVectorError(f"a vector has {np.abs(vectors[row]).max():.3g} at most, int8 has no scale for it; use float32", index=row)
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    return np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8), scales


# What float16 rounds to an infinity from, and to zero up to.
_HALF_INFINITE, _HALF_ZERO = 65520.0, 2.0**-25


def _half(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    largest = np.maximum(vectors.max(axis=1, initial=0), -vectors.min(axis=1, initial=0))
    wrong = (largest >= _HALF_INFINITE) | ((largest <= _HALF_ZERO) & (largest > 0))
    if wrong.any():
        row = int(np.argmax(wrong))
        ends = "ends at 65504" if largest[row] > 1 else "makes zeros of it"
        raise InvalidVectorError(f"a vector has {largest[row]:.3g} at most, float16 {ends}; use --dtype float32, or --normalize", index=row)
    return vectors.astype(np.float16)
