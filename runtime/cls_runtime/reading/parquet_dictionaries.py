"""Strings that a Parquet file stores once and names often: read as they are stored, counted, and only then put where they are named.

One row of a file of some hundred bytes can be a list that names a string a thousand times. Arrow would make a thousand copies of it while
it reads, before anybody could see how large the row is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from cls_runtime.reading.arrow_texts import is_dictionary

_LENGTHS = ("string", "large_string", "binary", "large_binary")
_OFFSET_BYTES = 4  # what an empty string in a list takes
_LIST_BUFFERS = {"list<": 2, "large_list<": 2, "map<": 2, "fixed_size_list<": 1}


def strings_in_lists(file: Any, names: list[str]) -> list[str]:
    """The paths of strings within lists of the columns `names` of an Arrow `ParquetFile`."""
    leaves = [file.schema.column(place) for place in range(len(file.schema))]
    return [leaf.path for leaf in leaves if is_string_in_list(leaf) and any(f"{leaf.path}.".startswith(f"{name}.") for name in names)]


def is_string_in_list(leaf: Any) -> bool:
    """Whether a column of a Parquet schema has any number of strings a row."""
    return bool(leaf.max_repetition_level > 0 and leaf.physical_type == "BYTE_ARRAY")


def value_bytes(array: Any) -> NDArray[np.int64]:
    """About how many bytes each value has, [n], with all that it names: strings by their own lengths, others by their average."""
    kind = array.type
    if _has_lengths(kind):
        return _string_bytes(array)
    if str(kind).startswith("struct<"):
        fields = [value_bytes(array.field(place)) for place in range(kind.num_fields)]
        return np.sum(fields, axis=0, dtype=np.int64) if fields else np.zeros(len(array), dtype=np.int64)
    if not _is_list(kind) or not (_has_lengths(_item(kind)) or _item(kind).num_fields):
        return np.full(len(array), array.nbytes // max(1, len(array)), dtype=np.int64)
    ends = np.concatenate([[0], np.cumsum(value_bytes(array.values) + _OFFSET_BYTES)])
    if str(kind).startswith("fixed_size_list<"):
        starts = (np.arange(len(array)) + array.offset) * kind.list_size
        return cast("NDArray[np.int64]", ends[starts + kind.list_size] - ends[starts])
    offsets = array.offsets.to_numpy()
    if _is_view(kind):
        return cast("NDArray[np.int64]", ends[offsets + array.sizes.to_numpy()] - ends[offsets])
    return cast("NDArray[np.int64]", np.diff(ends[offsets]))


def plain(batch: Any, kinds: Mapping[str, Any]) -> Any:
    """The batch with each value where it is named: columns of `kinds`, which go by name, and dictionaries as the values in them."""
    import pyarrow as pa

    if not any(is_dictionary(field.type) or field.type != kinds.get(field.name, field.type) for field in batch.schema):
        return batch
    arrays = [_plain(array, kinds.get(name, array.type)) for name, array in zip(batch.schema.names, batch.columns, strict=True)]
    fields = [field.with_type(array.type) for field, array in zip(batch.schema, arrays, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields, batch.schema.metadata))


def _plain(array: Any, kind: Any) -> Any:
    if is_dictionary(array.type):
        return array.dictionary_decode()
    if array.type == kind:
        return array
    return _expanded(_alone(array), kind)


def _alone(array: Any) -> Any:
    """The array without what is around it where it is a slice of another, which else would be expanded too."""
    return array.take(np.arange(len(array)))


def _expanded(array: Any, kind: Any) -> Any:
    """The array, which has its buffers for itself, with `kind`'s strings for dictionaries. Arrow's own cast makes no views of lists."""
    import pyarrow as pa

    if array.type == kind:
        return array
    if is_dictionary(array.type):
        return array.dictionary_decode().cast(kind)
    if str(kind).startswith("struct<"):
        fields = [_expanded(array.field(place), kind.field(place).type) for place in range(kind.num_fields)]
        return pa.Array.from_buffers(kind, len(array), array.buffers()[:1], children=fields)
    if not _is_view(kind):
        own = next(count for name, count in _LIST_BUFFERS.items() if str(kind).startswith(name))
        return pa.Array.from_buffers(kind, len(array), array.buffers()[:own], children=[_expanded(array.values, _item(kind))])
    sizes = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    starts = (np.cumsum(sizes) - sizes).astype(sizes.dtype)
    own_buffers = [array.is_valid().buffers()[1], pa.py_buffer(starts), pa.py_buffer(sizes)]
    return pa.Array.from_buffers(kind, len(array), own_buffers, children=[_expanded(_alone(array.flatten()), _item(kind))])


def _item(kind: Any) -> Any:
    """The type of what is in a list; in a map it is a struct."""
    import pyarrow as pa

    return pa.struct([kind.key_field, kind.item_field]) if str(kind).startswith("map<") else kind.value_type


def _is_view(kind: Any) -> bool:
    return str(kind).startswith(("list_view<", "large_list_view<"))


def _is_list(kind: Any) -> bool:
    return _is_view(kind) or str(kind).startswith(tuple(_LIST_BUFFERS))


def _has_lengths(kind: Any) -> bool:
    return str(kind.value_type if is_dictionary(kind) else kind) in _LENGTHS


def _string_bytes(array: Any) -> NDArray[np.int64]:
    from pyarrow import compute

    in_dictionary = is_dictionary(array.type)
    lengths = compute.binary_length(array.dictionary).take(array.indices) if in_dictionary else compute.binary_length(array)
    return cast("NDArray[np.int64]", lengths.fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64))
