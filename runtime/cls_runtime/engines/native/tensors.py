"""The safetensors format: arrays by name in one file, mapped into memory and shared between all processes that read it.

8 bytes with the header's length, little-endian; a JSON header with each array's type, shape and place, and `__metadata__`, texts by name;
then the arrays without holes. Ours are placed so that one whose size is a multiple of 64 bytes begins at such an address.
https://github.com/huggingface/safetensors#format
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.files import open_regular, whole_file
from cls_runtime.bundle.typed_json import parsed, shown

ALIGNMENT = 64
MAX_HEADER_BYTES = 2**24
_LENGTH_BYTES = 8
_METADATA = "__metadata__"
_MAX_DIMENSIONS = 8
_TYPES: dict[str, np.dtype[Any]] = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
}
_NAMES = {kind: name for name, kind in _TYPES.items()}


@dataclass(frozen=True)
class _Place:
    """Where an array is: bytes of the data, and how they are read."""

    kind: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def write_tensors(path: Path, tensors: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Writes the file whole or not at all; the same arrays give the same bytes.

    Raises:
        OSError: nothing can be written there.
    """
    order = sorted(tensors, key=lambda name: (tensors[name].nbytes % ALIGNMENT != 0, -tensors[name].itemsize))
    header: dict[str, Any] = {_METADATA: dict(metadata)}
    end = 0
    for name in order:
        array = tensors[name]
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": _NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % ALIGNMENT)
    with whole_file(path) as file:
        file.write(len(text).to_bytes(_LENGTH_BYTES, "little"))
        file.write(text)
        for name in order:
            file.write(np.ascontiguousarray(tensors[name]).data)


def map_tensors(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """The arrays of the file and its metadata; the arrays are read only and keep the mapping alive.

    Raises:
        ValueError: the file has not this form; one line says why.
        BundleError: it is not a regular file.
        OSError: it cannot be opened.
    """
    with open_regular(path) as file:
        prefix = file.read(_LENGTH_BYTES)
        length = int.from_bytes(prefix, "little")
        if len(prefix) < _LENGTH_BYTES:
            raise ValueError(f"it has {len(prefix)} bytes, expected {_LENGTH_BYTES} with its header's length first")
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"its header has {length:,} bytes, expected at most {MAX_HEADER_BYTES:,}")
        text = file.read(length)
        if len(text) < length:
            raise ValueError(f"it ends within its header of {length:,} bytes")
        places, metadata = _header(text)
        begin = _LENGTH_BYTES + length
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    _check_places(places, len(mapping) - begin)
    return {name: _view(mapping, begin, place) for name, place in places.items()}, metadata


def _view(mapping: mmap.mmap, begin: int, place: _Place) -> NDArray[Any]:
    count = math.prod(place.shape)
    return np.frombuffer(mapping, dtype=place.kind, count=count, offset=begin + place.begin).reshape(place.shape)


def _header(text: bytes) -> tuple[dict[str, _Place], dict[str, str]]:
    try:
        header = parsed(text.decode())
    except ValueError as error:  # of the text as of its encoding
        raise ValueError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise ValueError(f"its header is {type(header).__name__}, expected an object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"its {_METADATA} is {shown(metadata)}, expected texts by name")
    return {name: _place(name, raw) for name, raw in header.items()}, metadata


def _place(name: str, raw: Any) -> _Place:
    where = f"the array {shown(name)}"
    if not isinstance(raw, dict) or set(raw) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{where} is {shown(raw)}, expected its dtype, shape and data_offsets")
    kind, shape, offsets = raw["dtype"], raw["shape"], raw["data_offsets"]
    if not isinstance(kind, str) or kind not in _TYPES:
        raise ValueError(f"{where} has the dtype {shown(kind)}, expected one of {', '.join(_TYPES)}")
    if not _are_sizes(shape) or not 1 <= len(shape) <= _MAX_DIMENSIONS or 0 in shape:
        raise ValueError(f"{where} has the shape {shown(shape)}, expected 1 to {_MAX_DIMENSIONS} positive sizes")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{where} has the data_offsets {shown(offsets)}, expected where it begins and ends")
    begin, end = offsets
    size = math.prod(shape) * _TYPES[kind].itemsize
    if end - begin != size:
        raise ValueError(f"{where} has {shown(end - begin)} bytes, expected {shown(size)} of its shape")
    return _Place(_TYPES[kind], tuple(shape), begin, end)


def _are_sizes(raw: Any) -> bool:
    return isinstance(raw, list) and all(isinstance(size, int) and not isinstance(size, bool) and 0 <= size < 2**63 for size in raw)


def _check_places(places: Mapping[str, _Place], data_bytes: int) -> None:
    """The arrays must fill the data: no hole, no overlap, nothing beyond the file."""
    end = 0
    for name, place in sorted(places.items(), key=lambda item: item[1].begin):
        if place.begin != end:
            raise ValueError(f"the array {shown(name)} begins at byte {place.begin:,}, expected {end:,} behind the one before")
        if place.begin % place.kind.itemsize:
            raise ValueError(f"the array {shown(name)} begins at byte {place.begin:,}, which is no multiple of its numbers' size")
        end = place.end
    if end != data_bytes:
        raise ValueError(f"its arrays have {end:,} bytes, found {max(data_bytes, 0):,}")
