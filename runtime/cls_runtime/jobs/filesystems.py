"""Paths and URIs: what is behind `s3://bucket/texts.parquet` or `file:///data`, by Arrow's filesystems or fsspec's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.reading.parquet_files import ParquetRows, require_pyarrow
from cls_runtime.reading.rows import Columns, RowReader
from cls_runtime.reading.text_files import TextFile


def is_uri(name: str) -> bool:
    """Whether a name is a URI and not a path."""
    return "://" in name


def filesystem(uri: str) -> tuple[Any, str]:
    """The Arrow filesystem of a URI, and the path in it.

    Raises:
        UsageError: neither Arrow nor fsspec knows it.
    """
    pa = require_pyarrow(f"{uri}: URIs")
    from pyarrow import fs

    try:
        known, path = fs.FileSystem.from_uri(uri)
        return known, path
    except (pa.ArrowException, OSError, ValueError) as arrow_error:
        reason = str(arrow_error)
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped,unused-ignore]

        foreign, path = url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"{uri} cannot be reached (Arrow: {_line(reason)}; fsspec: {_line(error)})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(foreign)), path


@contextlib.contextmanager
def opened_rows(file: TextFile, columns: Columns) -> Iterator[RowReader]:
    """The rows of an input file, at a path or, of Parquet, behind a URI.

    Raises:
        UsageError: it is missing or cannot be read, or a column is not there.
        TextError: it is damaged as a whole.
    """
    opened = opened_parquet if file.kind == ".parquet" else TextFile.rows
    with opened(file, columns) as reader:
        yield reader


@contextlib.contextmanager
def opened_parquet(file: TextFile, columns: Columns) -> Iterator[ParquetRows]:
    """The Parquet file at a path or a URI.

    Raises:
        UsageError: it is missing, unreadable or no Parquet file, or a column is not there.
    """
    if not is_uri(file.name):
        with file.parquet(columns) as parquet:
            yield parquet
        return
    with opened_bytes(file.name) as remote, contextlib.closing(ParquetRows(remote, file.name, columns)) as parquet:
        yield parquet


@contextlib.contextmanager
def opened_bytes(uri: str) -> Iterator[Any]:
    """The file at a URI, for random access."""
    system, path = filesystem(uri)
    try:
        file = system.open_input_file(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{uri} cannot be read ({_line(error)})") from None
    with file:
        yield file


def parquet_files_under(uri: str) -> list[str]:
    """The `.parquet` files below a folder's URI, by name; the URI itself where it is a file.

    Raises:
        UsageError: nothing is there.
    """
    from pyarrow import fs

    system, path = filesystem(uri)
    try:
        if system.get_file_info(path).type != fs.FileType.Directory:
            return [uri]
        selected = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, ValueError) as error:  # names that are not UTF-8 are a ValueError
        raise UsageError(f"{uri} cannot be read ({_line(error)})") from None
    base = uri.rstrip("/")
    names = [
        item.path[len(path.rstrip("/")) + 1 :] for item in selected if item.type == fs.FileType.File and item.path.endswith(".parquet")
    ]
    names = [name for name in names if not any(part.startswith((".", "_")) for part in name.split("/"))]
    if not names:
        raise UsageError(f"{uri} holds no .parquet files")
    return [f"{base}/{name}" for name in sorted(names)]


def _line(reason: object) -> str:
    return " ".join(str(reason).split())
