"""Writes a float32 `.npy` file row by row, in memory of one block, so that the file is whole or not there.

    with NpyWriter(Path("vectors.npy"), width=384) as writer:
        writer.append(rows)      # float32 [n, 384], any number of times

The rows go into a hidden file beside the target. Leaving the block normally writes the row count into the header, forces the data to disk
and renames; an exception removes the hidden file. An existing target is replaced by the rename and by nothing else.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import struct
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from cls_runtime.errors import UsageError

_HEADER_BYTES = 128  # numpy aligns data to 64 bytes; one fixed size leaves room for any row count


class NpyWriter:
    """A context manager around one output file; `rows` counts what was appended.

    Args:
        path: the target, a name that ends in `.npy` in an existing folder. A symbolic link is followed.
        width: numbers in a row.

    Raises:
        UsageError: the name does not end in `.npy`, or nothing can be written there. Raised before any work.
    """

    def __init__(self, path: Path, *, width: int) -> None:
        check_npy_target(path)
        self.rows = 0
        self._width = width
        self._target = Path(os.path.realpath(path))
        self._part = self._target.with_name(f".{self._target.name}.{secrets.token_hex(4)}.part")
        self._file: BinaryIO | None = None

    def __enter__(self) -> NpyWriter:
        try:
            self._file = self._part.open("xb")
            self._file.write(_header(0, self._width))
        except BaseException as error:
            self._discard()
            if isinstance(error, OSError):
                raise UsageError(f"output {self._target} cannot be written ({error.strerror or error})") from None
            raise
        return self

    def append(self, rows: NDArray[np.float32]) -> None:
        """Adds rows, [n, width].

        Raises:
            ValueError: another width or dtype.
            OSError: the disk is full, or failed.
        """
        if rows.dtype != np.float32 or rows.ndim != 2 or rows.shape[1] != self._width:
            raise ValueError(f"rows are {rows.dtype} {list(rows.shape)}, expected float32 [n, {self._width}]")
        if self._file is None:
            raise ValueError("append() outside the with block")
        self._file.write(np.ascontiguousarray(rows, dtype="<f4").data)
        self.rows += len(rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None or self._file is None:
            self._discard()
            return
        try:
            self._file.seek(0)
            self._file.write(_header(self.rows, self._width))
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._part.replace(self._target)
        except BaseException:
            self._discard()
            raise
        _sync_folder(self._target.parent)

    def _discard(self) -> None:
        # Closing flushes what is buffered, which fails again on a full disk; the file goes away either way.
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
        self._part.unlink(missing_ok=True)


def check_npy_target(path: Path) -> None:
    """Tells early whether `path` can become a `.npy` file.

    Raises:
        UsageError: the name does not end in `.npy`, the folder is not there, or something other than a file is in its place.
    """
    if path.suffix != ".npy":
        raise UsageError(f"output {path}: expected a name that ends in .npy")
    if not path.parent.is_dir():
        raise UsageError(f"output {path}: the folder {path.parent} does not exist; make it first")
    if path.exists() and not path.is_file():
        raise UsageError(f"output {path}: this is there already and is not a file; choose another name")


def _header(rows: int, width: int) -> bytes:
    """The NPY 1.0 header of float32 [rows, width], always `_HEADER_BYTES` long (format: numpy.lib.format)."""
    description = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
    body_bytes = _HEADER_BYTES - len(b"\x93NUMPY\x01\x00") - 2
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", body_bytes) + description.ljust(body_bytes - 1).encode("ascii") + b"\n"


def _sync_folder(folder: Path) -> None:
    """Makes the rename itself survive a power failure, where folders can be opened (not on Windows)."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
