"""How many rows of a Parquet row group can be read at once, whatever they hold.

A file of some hundred bytes can hold a terabyte of text: a string that is stored once and named by every row. How large a string can be,
the file says in advance: no larger than the dictionary that it is in, or than all pages together.
"""

from __future__ import annotations

from typing import Any

from cls_runtime.errors import TextError
from cls_runtime.reading.parquet_dictionaries import is_string_in_list
from cls_runtime.reading.rows import BATCH_ROWS

MAX_BATCH_BYTES = 2**24
MAX_DICTIONARY_BYTES = 2**26
MAX_ROW_BYTES = 2**26  # of a column with strings in lists, each as often as it is named
# A column chunk that is larger and packed tighter is no text that somebody wrote.
_MAX_PACKED, _SUSPECT_BYTES = 200, 2**27
_SKEWED_ROWS = 16
# Of values in lists: rows say nothing about how many there are, and a run of equal ones is a few bytes. A string has at least a place in a
# dictionary.
_VALUE_BYTES = {"BOOLEAN": 1, "INT32": 4, "INT64": 8, "FLOAT": 4, "DOUBLE": 8, "INT96": 12, "BYTE_ARRAY": 4}
_STRINGS = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")
_HEADER_BYTES = 64
_DICTIONARY_PAGE = 2


def batch_rows(file: Any, number: int, names: list[str], source: Any, name: str) -> tuple[int, bool]:
    """How many rows of a row group are at most some `MAX_BATCH_BYTES` in the columns `names`, and whether they are
    so only where strings in lists are read into dictionaries.

    Args:
        file: Arrow's `ParquetFile`.
        number: the row group's.
        names: of columns.
        source: the open file.
        name: what errors call it.

    Raises:
        TextError: a page of it would not fit.
        OSError: its metadata are damaged.
    """
    rows = BATCH_ROWS
    leaves = [file.schema.column(place) for place in range(len(file.schema))]
    paths = [leaf.path for leaf in leaves]
    places = [place for place, path in enumerate(paths) if any(f"{path}.".startswith(f"{wanted}.") for wanted in names)]
    _check_chunks(file, number, places)
    row_group = file.metadata.row_group(number)
    lists = [place for place in places if is_string_in_list(leaves[place])]
    # Arrow puts no strings into dictionaries that are stored as what differs from the one before.
    in_dictionaries = bool(lists) and not any("DELTA" in encoding for place in lists for encoding in row_group.column(place).encodings)
    for place in places:
        chunk = row_group.column(place)
        whole, packed = chunk.total_uncompressed_size, chunk.total_compressed_size
        are_strings = chunk.physical_type in _STRINGS
        in_lists = chunk.num_values * _value_bytes(leaves[place]) if chunk.num_values > row_group.num_rows else 0
        if not are_strings and not in_lists:
            continue
        one = _dictionary_bytes(chunk, source) if are_strings else 0
        unpacked = max(whole, in_lists) if are_strings else in_lists
        advice = "write the file again with smaller row groups and pages"
        where = f"{name}: column {paths[place]!r} in row group {number}"
        if one > MAX_DICTIONARY_BYTES:
            raise TextError(f"{where} has a dictionary of {one:,} bytes, more than {MAX_DICTIONARY_BYTES:,}; {advice}")
        if unpacked > _SUSPECT_BYTES and unpacked > _MAX_PACKED * max(1, packed):
            raise TextError(f"{where} unpacks from {packed:,} to {unpacked:,} bytes, more than {_MAX_PACKED} times; {advice}")
        if "DELTA_BYTE_ARRAY" in chunk.encodings:  # a string may be all but a letter of the one before
            one = max(one, whole)
        if not (in_dictionaries and place in lists):
            rows = min(rows, max(1, MAX_BATCH_BYTES // max(1, one)))
        if whole > MAX_BATCH_BYTES and are_strings:  # all of it may be in a few rows
            rows = min(rows, _SKEWED_ROWS)
    return rows, in_dictionaries


def _value_bytes(leaf: Any) -> int:
    """How many bytes a value in a list has at least."""
    return leaf.length if leaf.physical_type == "FIXED_LEN_BYTE_ARRAY" else _VALUE_BYTES[leaf.physical_type]


def _check_chunks(file: Any, number: int, places: list[int]) -> None:
    """Lets Arrow's reader see the chunks' metadata first: where they are damaged it raises, and `RowGroupMetaData.column` ends the process.

    It reads no row, which `ParquetFile.iter_batches` would not be asked for.
    """
    for _ in file.reader.iter_batches(0, row_groups=[number], column_indices=places, use_threads=False):
        raise ValueError("no row was asked for")


def _dictionary_bytes(chunk: Any, source: Any) -> int:
    """The uncompressed size of a chunk's dictionary page by its header, 0 where there is none.

    The header is Thrift's compact form of parquet.thrift's PageHeader, which begins with the page's type and this size: two i32.
    """
    start = chunk.dictionary_page_offset if chunk.has_dictionary_page else None
    if not start or not 0 < start < chunk.data_page_offset:  # where Arrow begins to read
        start = chunk.data_page_offset
    source.seek(start)
    kind, rest = _i32(source.read(_HEADER_BYTES))
    size, _ = _i32(rest)
    return size if kind == _DICTIONARY_PAGE else 0


def _i32(header: bytes) -> tuple[int, bytes]:
    """The i32 that stands first in a compact struct as the field behind the last one, and what follows it."""
    if header[:1] != b"\x15":
        raise ValueError("a page header is damaged")
    number, shift = 0, 0
    for place, byte in enumerate(header[1:11], start=2):
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return (number >> 1) ^ -(number & 1), header[place:]
    raise ValueError("a page header is damaged")
