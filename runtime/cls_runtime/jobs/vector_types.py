"""How vectors are stored in Arrow: floats, bytes by ranges, bytes with a scale for each row, or bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.quantizing import quantized
from cls_runtime.encoding.vector_options import DType, VectorForm
from cls_runtime.errors import InvalidVectorError
from cls_runtime.jobs.columns import EMBEDDING, SCALE
from cls_runtime.jobs.vector_forms import has_scales, stored_width
from cls_runtime.reading.parquet_files import require_pyarrow

# The numbers that each kind of vector is stored in; a bit is an eighth of one.
NUMBERS: dict[DType, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "int8": np.int8,
    "uint8": np.uint8,
    "binary": np.int8,
    "ubinary": np.uint8,
}

FLOATS = ("float32", "float16")


def vector_fields(form: VectorForm) -> list[Any]:
    """The Arrow fields of a vector: `embedding`, and with a scale for each row `embedding_scale`: vector = embedding * embedding_scale."""
    pa = require_pyarrow("Parquet shards")
    fields = [pa.field(EMBEDDING, pa.list_(pa.from_numpy_dtype(NUMBERS[form.dtype]), stored_width(form)))]
    return [*fields, pa.field(SCALE, pa.float32())] if has_scales(form) else fields


def vector_arrays(vectors: NDArray[np.float32], missing: NDArray[np.bool_], *, form: VectorForm) -> list[Any]:
    """Arrow arrays for `vector_fields`; float32 without missing rows is not copied.

    Args:
        vectors: float32 [n, form.dimensions], which float16 can hold where it is to.
        missing: bool [n], the rows that become null.
        form: how they are stored.

    Raises:
        InvalidVectorError: a vector has no scale: a number is too large or the whole vector too small.
    """
    import pyarrow as pa

    if missing.any():
        vectors = np.where(missing[:, None], np.float32(0), vectors)
    stored, scales = scaled(vectors) if has_scales(form) else (quantized(vectors, form.dtype, ranges=form.ranges), None)
    mask = pa.array(missing) if missing.any() else None
    values = pa.array(np.ascontiguousarray(stored).reshape(-1))
    arrays = [pa.FixedSizeListArray.from_arrays(values, type=pa.list_(values.type, stored.shape[1]), mask=mask)]
    if scales is not None:
        arrays.append(pa.array(scales, mask=missing))
    return arrays


def scaled(vectors: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Vectors [n, width] as int8 in [-127, 127] and a scale [n] for each, the row's largest magnitude / 127; a zero row has scale 0.

    >>> numbers, scales = scaled(np.array([[1.0, -0.5]], dtype=np.float32))
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
