"""Writes a `.npy` file row by row, in memory of one block, so that the file is whole or not there.

    with npy_writer(Path("vectors.npy"), width=384) as writer:
        writer.append(rows)      # float32 [n, 384], any number of times

Leaving the block normally writes the row count into the header and shows the file; an exception leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import DTypeLike, NDArray

from cls_runtime.bundle.files import remove_parts, whole_file
from cls_runtime.errors import UsageError

_HEADER_BYTES = 128  # numpy aligns data to 64 bytes; one fixed size leaves room for any row count


class NpyWriter:
    """An open `.npy` file; `rows` counts what was appended. Made by `npy_writer`."""

    def __init__(self, file: BinaryIO, *, width: int, dtype: np.dtype[Any]) -> None:
        self.rows = 0
        self._file = file
        self._width = width
        self._dtype = dtype

    def append(self, rows: NDArray[Any]) -> None:
        """Adds rows, [n, width].

        Raises:
            ValueError: another width or dtype, or the file is closed.
            OSError: the disk is full, or failed.
        """
        if rows.dtype != self._dtype or rows.ndim != 2 or rows.shape[1] != self._width:
            raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}, expected {self._dtype} [n, {self._width}]")
        self._file.write(np.ascontiguousarray(rows, dtype=_stored(self._dtype)).data)
        self.rows += len(rows)


@contextlib.contextmanager
def npy_writer(path: Path, *, width: int, dtype: DTypeLike = np.float32) -> Iterator[NpyWriter]:
    """Opens the file `path` for rows; it appears, or replaces an older one, when the block ends normally.

    Args:
        path: the target, a name that ends in `.npy` in an existing folder. A symbolic link is followed. What a kill left of an earlier
            writer is removed.
        width: numbers in a row.
        dtype: of the numbers.

    Raises:
        UsageError: the name does not end in `.npy`, or nothing can be written there. Raised before any work.
        OSError: the disk is full, or failed.
    """
    check_npy_target(path)
    with contextlib.ExitStack() as stack:
        try:
            remove_parts(path)
            file = stack.enter_context(whole_file(path))
        except OSError as error:
            raise UsageError(f"output {path} cannot be written ({error.strerror or error}); choose another") from None
        numbers = np.dtype(dtype)
        file.write(_header(0, width, numbers))
        writer = NpyWriter(file, width=width, dtype=numbers)
        yield writer
        file.seek(0)
        file.write(_header(writer.rows, width, numbers))


def check_npy_target(path: Path) -> None:
    """Tells early whether `path` can become a `.npy` file.

    Raises:
        UsageError: the name does not end in `.npy`, the folder is not there, or something other than a file is in its place.
    """
    if path.suffix != ".npy":
        raise UsageError(f"output {path}: expected a name that ends in .npy")
    folder = Path(os.path.realpath(path)).parent if path.is_symlink() else path.parent
    if not folder.is_dir():
        raise UsageError(f"output {path}: the folder {folder} does not exist; make it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"output {path}: this exists and is not a file; choose another name")


def _stored(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The same numbers, least byte first."""
    return dtype.newbyteorder("<")


def _header(rows: int, width: int, dtype: np.dtype[Any]) -> bytes:
    """The NPY 1.0 header of an array [rows, width], always `_HEADER_BYTES` long (format: numpy.lib.format)."""
    description = f"{{'descr': '{_stored(dtype).str}', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    body_bytes = _HEADER_BYTES - len(b"\x93NUMPY\x01\x00") - 2
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", body_bytes) + description.ljust(body_bytes - 1).encode("ascii") + b"\n"
