"""Paths and URIs: what is behind `s3://bucket/texts.parquet` or `file:///data`, by Arrow's filesystems or fsspec's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cls_runtime.errors import UsageError
from cls_runtime.reading.line_formats import Columns
from cls_runtime.reading.parquet_files import ParquetTexts, require_pyarrow


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
        found, path = fs.FileSystem.from_uri(uri)
        return found, path
    except (pa.ArrowException, OSError) as arrow_error:
        reason = str(arrow_error)
    try:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped,unused-ignore]

        foreign, path = url_to_fs(uri)
    except (ImportError, ValueError, OSError) as error:
        raise UsageError(f"{uri} cannot be reached (Arrow: {_line(reason)}; fsspec: {_line(error)})") from None
    return fs.PyFileSystem(fs.FSSpecHandler(foreign)), path


@contextlib.contextmanager
def opened_parquet(name: str, columns: Columns) -> Iterator[ParquetTexts]:
    """The Parquet file at a path or a URI.

    Raises:
        UsageError: it is missing, unreadable or no Parquet file, or a column is not there.
    """
    if not is_uri(name):
        with contextlib.closing(ParquetTexts(Path(name), name, columns)) as parquet:
            yield parquet
        return
    with opened_bytes(name) as file, contextlib.closing(ParquetTexts(file, name, columns)) as parquet:
        yield parquet


@contextlib.contextmanager
def opened_bytes(uri: str) -> Iterator[Any]:
    """The file at a URI, for random access."""
    found, path = filesystem(uri)
    try:
        file = found.open_input_file(path)
    except OSError as error:
        raise UsageError(f"{uri} cannot be read ({_line(error)})") from None
    with file:
        yield file


def parquet_files_under(uri: str) -> list[str]:
    """The `.parquet` files below a folder's URI, by name; the URI itself where it is a file.

    Raises:
        UsageError: nothing is there.
    """
    from pyarrow import fs

    found, path = filesystem(uri)
    if found.get_file_info(path).type != fs.FileType.Directory:
        return [uri]
    selected = found.get_file_info(fs.FileSelector(path, recursive=True))
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
