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
        InvalidVectorError: float16, and a number is too large for it.
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
    """
    scales = np.abs(vectors).max(axis=1, initial=0).astype(np.float32) / np.float32(127)
    divisors = np.where(scales == 0, np.float32(1), scales)[:, None]
    return np.clip(np.rint(vectors / divisors), -127, 127).astype(np.int8), scales


def _half(vectors: NDArray[np.float32]) -> NDArray[np.float16]:
    with np.errstate(over="ignore"):
        half = vectors.astype(np.float16)
    if np.isinf(half).any():
        row = int(np.argmax(np.isinf(half).any(axis=1)))
        raise InvalidVectorError(
            f"a vector has {np.abs(vectors[row]).max():.3g}, float16 ends at 65504; use --dtype float32, or --normalize", index=row
        )
    return half
