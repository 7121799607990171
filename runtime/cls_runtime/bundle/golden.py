"""`golden.npz`: texts and the vectors that PyTorch gave for them, so that a bundle can be checked without PyTorch.

A zip of `.npy` arrays: `texts` (and `text_pairs` where the texts are pairs) as numpy unicode arrays [n], and float32 [n, width] for each
output that the bundle has: `cls` (in a bundle that pools otherwise `sentence`), `pooler`, `logits`. The tokens that PyTorch was given are
int32 too: `token_counts` [n], and `token_ids` with all texts' ids one after the other. They tell a wrong tokenizer from a wrong graph.
Nothing in the file is pickled, and a reader allocates no more than it really holds.

Of a bundle with every token's row there is a sample of rows: `tokens` float32 [R, H], one text's rows after the other's, `row_counts` int32
[n], how many of each, and `row_positions` int32 [R], of which tokens.
"""

from __future__ import annotations

import io
import math
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.files import open_regular
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.bundle.typed_json import shown
from cls_runtime.errors import BundleError, is_shortage

Float32 = NDArray[np.float32]

GOLDEN_NAME = "golden.npz"
OUTPUTS = tuple(GRAPH_OUTPUTS)
_SENTENCES = ("cls", "sentence")
MAX_GOLDEN_BYTES = 256 * 2**20
_TEXT_ARRAYS = ("texts", "text_pairs")
_TOKEN_ARRAYS = ("token_counts", "token_ids")
_ROW_ARRAYS = ("row_counts", "row_positions")
# Of each there is far less; more of them would be lists of Python's objects that are many times the file.
_MAX_TEXTS = 100_000
_MAX_TOKENS = 2**23
_MAX_DIRECTORY_BYTES = 2**16
# The end of a zip without a comment: signature, two disk numbers, two counts, the directory's size and offset, the comment's length.
_ZIP_END = struct.Struct("<4s4H2LH")
_ZIP64_LOCATOR, _ZIP64_LOCATOR_BYTES = b"PK\6\7", 20
# What numpy writes before the numbers, of an array of float32, int32 or text in one or two dimensions.
_NPY_START = re.compile(rb"\x93NUMPY(..)(..)", re.DOTALL)
_NPY_HEADER = re.compile(rb"\{'descr': '(<f4|<i4|<U[1-9]\d{0,7})', 'fortran_order': False, 'shape': \((\d{1,12}), ?(\d{1,12})?\), ?\} *\n")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Texts and their vectors.

    Attributes:
        texts: n texts, of ragged lengths.
        text_pairs: the second text of each pair, or None where the texts are single.
        token_ids: the tokens of each text as the model takes them, special tokens included and cut to the maximum; None where the file has
            none, as those of cls-export 0.1.0.
        vectors: float32 [n, width] by output: `cls` or `sentence` always, `pooler` and `logits` where the bundle has them; `tokens`
            is [R, H], with a row for each of `row_positions`.
        row_positions: with `tokens`, the positions of each text's tokens whose rows are kept, ascending; see `token_sample`.

    Raises:
        ValueError: no texts, no vectors of theirs, an unknown output, a shape or dtype that does not fit, or a text that ends with a NUL
            (numpy's unicode arrays drop it).
    """

    texts: tuple[str, ...]
    vectors: Mapping[str, Float32]
    text_pairs: tuple[str, ...] | None = None
    token_ids: tuple[tuple[int, ...], ...] | None = None
    row_positions: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        if not self.texts:
            raise ValueError("golden vectors need at least one text")
        if self.text_pairs is not None and len(self.text_pairs) != len(self.texts):
            raise ValueError(f"{len(self.text_pairs)} text_pairs for {len(self.texts)} texts, expected as many")
        if self.token_ids is not None and len(self.token_ids) != len(self.texts):
            raise ValueError(f"tokens of {len(self.token_ids)} texts for {len(self.texts)} texts, expected as many")
        for text in (*self.texts, *(self.text_pairs or ())):
            if text.endswith("\0"):
                raise ValueError(f"the text {text[:40]!r} ends with a NUL, which a numpy unicode array cannot hold")
        if len({*_SENTENCES} & set(self.vectors)) != 1 or not set(self.vectors) <= set(OUTPUTS):
            raise ValueError(f"vectors for {sorted(self.vectors)}, expected cls or sentence, and at most {', '.join(OUTPUTS)}")
        if ("tokens" in self.vectors) != (self.row_positions is not None):
            raise ValueError("rows of tokens go with their positions, only one of the two is there")
        if self.row_positions is not None and len(self.row_positions) != len(self.texts):
            raise ValueError(f"positions in {len(self.row_positions)} texts for {len(self.texts)} texts, expected as many")
        if any(list(positions) != sorted({*positions}) or positions[:1] < (0,) for positions in self.row_positions or ()):
            raise ValueError("positions of a text's rows, expected at least one, from 0 on and ascending")
        for name, vectors in self.vectors.items():
            rows = len(self.texts) if name != "tokens" else sum(map(len, self.row_positions or ()))
            if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != rows or not vectors.shape[1]:
                raise ValueError(f"{name} is {vectors.dtype} {list(vectors.shape)}, expected float32 [{rows}, width]")

    @property
    def inputs(self) -> list[str] | list[tuple[str, str]]:
        """The texts, or the pairs of texts, as `Encoder.encode` takes them."""
        return list(self.texts) if self.text_pairs is None else list(zip(self.texts, self.text_pairs, strict=True))


def write_golden(path: Path, golden: Golden) -> None:
    """Writes `golden` to `path`. The same content gives the same bytes: no timestamps, a fixed order."""
    arrays: dict[str, NDArray[Any]] = {"texts": np.array(golden.texts, dtype=np.str_)}
    if golden.text_pairs is not None:
        arrays["text_pairs"] = np.array(golden.text_pairs, dtype=np.str_)
    if golden.token_ids is not None:
        arrays["token_counts"] = np.array([len(ids) for ids in golden.token_ids], dtype=np.int32)
        arrays["token_ids"] = np.array([token for ids in golden.token_ids for token in ids], dtype=np.int32)
    if golden.row_positions is not None:
        arrays["row_counts"] = np.array([len(positions) for positions in golden.row_positions], dtype=np.int32)
        arrays["row_positions"] = np.array([place for positions in golden.row_positions for place in positions], dtype=np.int32)
    arrays |= {name: np.ascontiguousarray(golden.vectors[name]) for name in OUTPUTS if name in golden.vectors}
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=_EPOCH)
            member.create_system = 3  # Unix everywhere, or the bytes would depend on the machine
            member.external_attr = 0o644 << 16
            # A unicode array pads every text to the longest with zeros, which deflate takes away; vectors do not shrink.
            member.compress_type = zipfile.ZIP_STORED if name in OUTPUTS else zipfile.ZIP_DEFLATED
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, array, version=(1, 0), allow_pickle=False)
            archive.writestr(member, buffer.getvalue())


def read_golden(path: Path) -> Golden:
    """Reads a `golden.npz`.

    Raises:
        BundleError: the file is missing, damaged, larger than `MAX_GOLDEN_BYTES` unpacked, or not what `write_golden` writes.
    """
    try:
        with open_regular(path, max_bytes=MAX_GOLDEN_BYTES) as file:
            arrays = _arrays(file)
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist; export the bundle again") from None
    except (OSError, zipfile.BadZipFile, zlib.error, struct.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        if is_shortage(error):
            raise
        raise BundleError(f"{path} cannot be read ({_reason(error)}); export the bundle again") from None
    try:
        return _golden(arrays)
    except ValueError as error:
        raise BundleError(f"{path} does not hold golden vectors: {error}; export the bundle again") from None


def _arrays(file: BinaryIO) -> dict[str, NDArray[Any]]:
    """The arrays of a zip by name. Nothing is unpacked before it is known to be one of ours and within the bounds."""
    _check_directory(file)
    with zipfile.ZipFile(file) as archive:
        members = archive.infolist()
        names = sorted(member.filename.removesuffix(".npy") for member in members)
        unknown = [name for name in names if name not in {*_TEXT_ARRAYS, *_TOKEN_ARRAYS, *_ROW_ARRAYS, *OUTPUTS}]
        if unknown or "texts" not in names:
            raise ValueError(f"arrays {shown(names)}, expected texts and their vectors" + (f", not {shown(unknown[0])}" if unknown else ""))
        if len(set(names)) < len(names):
            raise ValueError(f"arrays {shown(names)}, expected each once")
        size_bytes = sum(member.file_size for member in members)
        if size_bytes > MAX_GOLDEN_BYTES:
            raise ValueError(f"it unpacks to {size_bytes:,} bytes, expected at most {MAX_GOLDEN_BYTES:,}; do not trust this bundle")
        for member in members:
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise ValueError(f"{member.filename} is packed by method {member.compress_type}, expected stored or deflated")
        return {member.filename.removesuffix(".npy"): _array(member.filename, archive.read(member)) for member in members}


def _check_directory(file: BinaryIO) -> None:
    """Refuses a zip whose list of members is large: `ZipFile` makes an object of each entry, whatever their number is said to be."""
    size = file.seek(0, os.SEEK_END)
    if size < _ZIP_END.size:
        raise zipfile.BadZipFile("it is not a zip file")
    file.seek(max(0, size - _ZIP_END.size - _ZIP64_LOCATOR_BYTES))
    tail = file.read()
    signature, *_, directory_bytes, _offset, comment_bytes = _ZIP_END.unpack(tail[-_ZIP_END.size :])
    if signature != b"PK\5\6" or comment_bytes:
        raise zipfile.BadZipFile("it is not a zip file, or does not end with its directory")
    if directory_bytes > _MAX_DIRECTORY_BYTES or tail.startswith(_ZIP64_LOCATOR):
        raise zipfile.BadZipFile(f"its directory has {directory_bytes:,} bytes, expected at most {_MAX_DIRECTORY_BYTES:,}")


def _array(name: str, data: bytes) -> NDArray[Any]:
    """One `.npy` file from memory. numpy would parse the header as Python and allocate what it claims; this believes only the bytes."""
    start = _NPY_START.match(data)
    if start is None:
        raise ValueError(f"{name} is no array")
    version, header_bytes = tuple(start[1]), int.from_bytes(start[2], "little")
    if version != (1, 0):
        raise ValueError(f"{name} has format version {version}, expected (1, 0)")
    header = _NPY_HEADER.fullmatch(data, start.end(), start.end() + header_bytes)
    if header is None:
        raise ValueError(f"{name} has another header than float32, int32 or text in one or two dimensions")
    dtype, shape = np.dtype(header[1].decode()), tuple(int(size) for size in header.groups()[1:] if size is not None)
    body = memoryview(data)[header.end() :]
    if math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{name} says {dtype} {list(shape)} but holds {len(body)} bytes")
    if dtype.kind == "U":
        _check_text(name, np.frombuffer(body, dtype="<u4"))
    return np.frombuffer(body, dtype=dtype).reshape(shape) if body else np.zeros(shape, dtype)


def _check_text(name: str, codes: NDArray[np.uint32]) -> None:
    """Refuses numbers that are no characters: Python aborts, or makes a str that nothing can encode."""
    wrong = codes[(codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))]
    if len(wrong):
        raise ValueError(f"{name} has the number {int(wrong[0]):#x} for a character, expected Unicode")


def _golden(arrays: Mapping[str, NDArray[Any]]) -> Golden:
    for name in _TEXT_ARRAYS:
        if name in arrays and (arrays[name].dtype.kind != "U" or arrays[name].ndim != 1):
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, expected unicode [n]")
        if name in arrays and len(arrays[name]) > _MAX_TEXTS:
            raise ValueError(f"{name} has {len(arrays[name]):,} texts, expected at most {_MAX_TEXTS:,}")
    pairs = arrays.get("text_pairs")
    return Golden(
        texts=tuple(arrays["texts"].tolist()),
        text_pairs=None if pairs is None else tuple(pairs.tolist()),
        token_ids=_ragged(arrays, *_TOKEN_ARRAYS),
        row_positions=_ragged(arrays, *_ROW_ARRAYS),
        vectors={name: arrays[name] for name in OUTPUTS if name in arrays},
    )


def _ragged(arrays: Mapping[str, NDArray[Any]], counts_name: str, values_name: str) -> tuple[tuple[int, ...], ...] | None:
    """Integers of each text, which the file has one text's after the other's; None where it has none."""
    held = [name for name in (counts_name, values_name) if name in arrays]
    if not held:
        return None
    for name in held:
        if arrays[name].dtype != np.int32 or arrays[name].ndim != 1:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, expected int32 [n]")
        if len(arrays[name]) > _MAX_TOKENS:
            raise ValueError(f"{name} has {len(arrays[name]):,} numbers, expected at most {_MAX_TOKENS:,}")
    if len(held) < 2:
        raise ValueError(f"{held[0]} without {({counts_name, values_name} - set(held)).pop()}, expected both")
    counts, values = arrays[counts_name], arrays[values_name].tolist()
    if (counts < 0).any() or int(counts.sum(dtype=np.int64)) != len(values):
        raise ValueError(f"{counts_name} add up to {int(counts.sum(dtype=np.int64))}, {values_name} has {len(values)}")
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return tuple(tuple(values[end - count : end]) for end, count in zip(ends, counts.tolist(), strict=True))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
