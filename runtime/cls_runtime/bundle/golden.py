"""`golden.npz`: texts and the vectors that PyTorch gave for them, so that a bundle can be checked without PyTorch.

A zip of `.npy` arrays: `texts` (and `text_pairs` where the texts are pairs) as numpy unicode arrays [n], and float32 [n, width] for each
output that the bundle has: `cls`, `pooler`, `logits`. The tokens that PyTorch was given are int32 too: `token_counts` [n], and `token_ids`
with all texts' ids one after the other. They tell a wrong tokenizer from a wrong graph. Nothing in the file is pickled, and a reader
allocates no more than it really holds.
"""

from __future__ import annotations

import io
import math
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.errors import BundleError

Float32 = NDArray[np.float32]

GOLDEN_NAME = "golden.npz"
OUTPUTS = tuple(GRAPH_OUTPUTS)
MAX_GOLDEN_BYTES = 256 * 2**20
_TEXT_ARRAYS = ("texts", "text_pairs")
_TOKEN_ARRAYS = ("token_counts", "token_ids")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest time that a zip can hold


@dataclass(frozen=True, kw_only=True)
class Golden:
    """Texts and their vectors.

    Attributes:
        texts: n texts, of ragged lengths.
        text_pairs: the second text of each pair, or None where the texts are single.
        token_ids: the tokens of each text as the model takes them, special tokens included and cut to the maximum; None where the file has
            none, as those of cls-export 0.1.0.
        vectors: float32 [n, width] by output: `cls` always, `pooler` and `logits` where the bundle has them.

    Raises:
        ValueError: no texts, no `cls`, an unknown output, a shape or dtype that does not fit, or a text that ends with a NUL
            (numpy's unicode arrays drop it).
    """

    texts: tuple[str, ...]
    vectors: Mapping[str, Float32]
    text_pairs: tuple[str, ...] | None = None
    token_ids: tuple[tuple[int, ...], ...] | None = None

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
        if "cls" not in self.vectors or not set(self.vectors) <= set(OUTPUTS):
            raise ValueError(f"vectors for {sorted(self.vectors)}, expected cls and at most {', '.join(OUTPUTS)}")
        for name, vectors in self.vectors.items():
            if vectors.dtype != np.float32 or vectors.ndim != 2 or len(vectors) != len(self.texts):
                raise ValueError(f"{name} is {vectors.dtype} {list(vectors.shape)}, expected float32 [{len(self.texts)}, width]")

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
        with zipfile.ZipFile(path) as archive:
            size_bytes = sum(member.file_size for member in archive.infolist())
            if size_bytes > MAX_GOLDEN_BYTES:
                raise BundleError(
                    f"{path} unpacks to {size_bytes:,} bytes, expected at most {MAX_GOLDEN_BYTES:,}; do not trust this bundle"
                )
            arrays = {name.removesuffix(".npy"): _array(name, archive.read(name)) for name in archive.namelist()}
    except FileNotFoundError:
        raise BundleError(f"{path} does not exist; export the bundle again") from None
    except (OSError, zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"{path} cannot be read ({_reason(error)}); export the bundle again") from None
    try:
        return _golden(arrays)
    except ValueError as error:
        raise BundleError(f"{path} does not hold golden vectors: {error}; export the bundle again") from None


def _array(name: str, data: bytes) -> NDArray[Any]:
    """One `.npy` file from memory. numpy.load would allocate whatever shape the header claims; this believes only the bytes."""
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"{name} has format version {version}, expected (1, 0)")
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    body = data[stream.tell() :]
    if dtype.hasobject or fortran_order or math.prod(shape) * dtype.itemsize != len(body):
        raise ValueError(f"{name} says {dtype} {list(shape)} but holds {len(body)} bytes")
    if not body:
        return np.zeros(shape, dtype)
    return np.frombuffer(body, dtype=dtype).reshape(shape)


def _golden(arrays: Mapping[str, NDArray[Any]]) -> Golden:
    unknown = sorted(set(arrays) - {*_TEXT_ARRAYS, *_TOKEN_ARRAYS, *OUTPUTS})
    if unknown or "texts" not in arrays:
        raise ValueError(f"arrays {sorted(arrays)}, expected texts and cls" + (f", not {unknown[0]}" if unknown else ""))
    for name in _TEXT_ARRAYS:
        if name in arrays and (arrays[name].dtype.kind != "U" or arrays[name].ndim != 1):
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, expected unicode [n]")
    pairs = arrays.get("text_pairs")
    return Golden(
        texts=tuple(arrays["texts"].tolist()),
        text_pairs=None if pairs is None else tuple(pairs.tolist()),
        token_ids=_token_ids(arrays),
        vectors={name: arrays[name] for name in OUTPUTS if name in arrays},
    )


def _token_ids(arrays: Mapping[str, NDArray[Any]]) -> tuple[tuple[int, ...], ...] | None:
    held = [name for name in _TOKEN_ARRAYS if name in arrays]
    if not held:
        return None
    for name in held:
        if arrays[name].dtype != np.int32 or arrays[name].ndim != 1:
            raise ValueError(f"{name} is {arrays[name].dtype} {list(arrays[name].shape)}, expected int32 [n]")
    if len(held) < 2:
        raise ValueError(f"{held[0]} without {(set(_TOKEN_ARRAYS) - set(held)).pop()}, expected both")
    counts, ids = arrays["token_counts"], arrays["token_ids"].tolist()
    if (counts < 0).any() or int(counts.sum(dtype=np.int64)) != len(ids):
        raise ValueError(f"token_counts add up to {int(counts.sum(dtype=np.int64))}, token_ids has {len(ids)}")
    ends = np.cumsum(counts, dtype=np.int64).tolist()
    return tuple(tuple(ids[end - count : end]) for end, count in zip(ends, counts.tolist(), strict=True))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
