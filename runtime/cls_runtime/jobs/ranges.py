"""The least and the greatest value of each number of a vector, which int8 and uint8 need: from a file, and into what a job records.

A file is a `.npy` of float32 [2, width], as `numpy.save` writes `Encoder.ranges()`.
"""

from __future__ import annotations

import hashlib
import math
import re
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.files import read_regular
from cls_runtime.bundle.manifest import MAX_WIDTH
from cls_runtime.errors import BundleError, UsageError, is_shortage

_MAX_HEADER_BYTES = 2**12
_START = re.compile(rb"\x93NUMPY([\x01-\x03])\x00", re.DOTALL)
_HEADER = re.compile(rb"\{'descr': '([<>|](?:[iu][1248]|f[248]))', 'fortran_order': (True|False), 'shape': \(([\d, ]{0,40})\), \} *\n")


def read_ranges(path: Path) -> NDArray[np.float32]:
    """The ranges in a `.npy` file, float32 [2, width]. Nothing is unpickled, and no more is read than ranges can have.

    Raises:
        UsageError: there is no such file, or it holds something else.
    """
    try:
        data = read_regular(path, max_bytes=2 * MAX_WIDTH * 4 + _MAX_HEADER_BYTES)
    except (OSError, BundleError) as error:
        if is_shortage(error):
            raise
        large = isinstance(error, BundleError) and path.is_file()
        reason = "is larger than any" if large else "does not exist" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise _unfit(path, reason) from None
    try:
        return _array(data)
    except ValueError as error:
        raise _unfit(path, str(error)) from None


def ranges_sha256(ranges: NDArray[np.float32]) -> str:
    """Names the ranges: the SHA-256 of their bytes, float32 and little-endian, row by row."""
    return hashlib.sha256(np.ascontiguousarray(ranges, dtype="<f4").tobytes()).hexdigest()


def _array(data: bytes) -> NDArray[np.float32]:
    """numpy would parse the header as Python and allocate what it claims; this believes only the bytes."""
    start = _START.match(data)
    if start is None:
        raise ValueError("is no .npy file")
    length_bytes = 2 if start[1] == b"\x01" else 4
    begin = start.end() + length_bytes
    header = _HEADER.fullmatch(data, begin, begin + int.from_bytes(data[start.end() : begin], "little"))
    if header is None:
        raise ValueError("holds objects, or what no numpy.save writes")
    shape = tuple(int(size) for size in header[3].decode().split(",") if size.strip())
    if len(shape) != 2 or shape[0] != 2 or header[1] != b"<f4":
        raise ValueError(f"holds {np.dtype(header[1].decode())} {list(shape)}")
    if math.prod(shape) * 4 != len(data) - header.end():
        raise ValueError(f"says float32 {list(shape)} and holds {len(data) - header.end():,} bytes")
    return np.frombuffer(data, dtype="<f4", offset=header.end()).reshape(shape, order="F" if header[2] == b"True" else "C")


def _unfit(path: Path, reason: str) -> UsageError:
    return UsageError(f"ranges file {path} {reason}; expected float32 [2, width], as numpy.save writes Encoder.ranges()")
