"""One weight file as named tensors: safetensors, or a pickle that holds tensors only. Nothing in it runs, or takes more memory than it has.

A file says how large its tensors are, and PyTorch believes it: storages of a pickle that claim more than the file holds are read from
beyond it, and a view of one number may have the shape of a terabyte. So a file is measured before it is loaded, and each tensor after.
"""

from __future__ import annotations

import contextlib
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, TypeGuard

import torch
from torch import Tensor, nn

from cls_exporter.checkpoint.folder import JSON_BYTES, CheckpointFolder
from cls_exporter.errors import CheckpointError, UnsupportedError, as_checkpoint_error, shown
from cls_runtime.bundle.folder import path_for_libraries

WEIGHTS_BYTES = 64 * 2**30  # ten times the largest encoder of a supported architecture, in fp32
_NAME_CHARACTERS = 500
_TENSORS = 100_000
# A tied weight is stored once and named two or three times.
_NAMES_OF_A_NUMBER = 4
_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_WRAPPERS = 2  # dicts that a training program puts around a state dict
_LENGTH_BYTES = 8  # of a safetensors header's length
_ZIP = b"PK\x03\x04"


def read_tensors(folder: CheckpointFolder, name: str) -> dict[str, Tensor]:
    """The tensors of the file `name`, safetensors or a pickle by its suffix.

    Raises:
        CheckpointError: it is damaged, is a pickle of more than tensors, or holds tensors that are larger than the file.
        UnsupportedError: a tensor is sparse, quantized or of another kind that is not plain numbers.
    """
    path = folder.file(name, limit_bytes=WEIGHTS_BYTES)
    with path_for_libraries(path) as readable:
        content = _read_safetensors(readable, name) if name.endswith(".safetensors") else _read_pickle(readable, name)
    tensors = _state_dict(content, name)
    _check_tensors(tensors, name, file_bytes=path.stat().st_size)
    return tensors


def as_float32(name: str, tensor: Tensor) -> Tensor:
    """A weight as contiguous float32, of the same shape; `name` is the weight's, for the error.

    Raises:
        UnsupportedError: it holds no floating point numbers.
        CheckpointError: a number is NaN or infinite.
    """
    if tensor.dtype not in _FLOATS:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise UnsupportedError(
            f"the weight {shown(name)} is {kind}; supported are float32, float16, bfloat16 and float64; "
            "export the float checkpoint that it was made from"
        )
    numbers = tensor.detach().float().contiguous()
    if not bool(torch.isfinite(numbers).all()):
        raise CheckpointError(f"the weight {shown(name)} holds NaN or infinite numbers; the training failed or the file is damaged")
    return numbers


def _read_safetensors(path: Path, name: str) -> object:
    from safetensors.torch import load_file

    with as_checkpoint_error(lambda reason: f"{name} is damaged or not safetensors ({reason}); fetch the checkpoint again"):
        with path.open("rb") as file:
            _check_header(file, size_bytes=path.stat().st_size)
        return load_file(path)


def _check_header(file: BinaryIO, *, size_bytes: int) -> None:
    """Holds a safetensors file's own sizes to the file's; of all else that is wrong with its header the library speaks."""
    if size_bytes < _LENGTH_BYTES:
        raise ValueError(f"it is cut short after {size_bytes} bytes")
    (header_bytes,) = struct.unpack("<Q", file.read(_LENGTH_BYTES))
    if header_bytes > JSON_BYTES:
        raise ValueError(f"its header has {header_bytes} bytes, expected at most {JSON_BYTES}")
    end = _LENGTH_BYTES + header_bytes
    with contextlib.suppress(ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        entries = json.loads(file.read(header_bytes)).items()
        end += max(int(entry["data_offsets"][1]) for name, entry in entries if name != "__metadata__")
    if size_bytes < end:
        raise ValueError(f"it is cut short after {size_bytes} bytes, its header says {end}")


def _read_pickle(path: Path, name: str) -> object:
    with as_checkpoint_error(
        lambda reason: (
            f"{name} cannot be loaded as tensors only ({reason}); a pickle may run code, so nothing else is read from it; "
            "fetch it again, or convert it to safetensors if you trust it"
        )
    ):
        with path.open("rb") as file:
            is_zip = file.read(len(_ZIP)) == _ZIP
        if is_zip:
            _check_members(path)
        # Mapped, a storage is cut out of the file and ends where it ends. The format before the zip file reads each storage itself.
        try:
            return torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        except (EOFError, IndexError, struct.error):  # of its reader, at the end of what there is
            raise ValueError("it is cut short") from None


def _state_dict(content: object, name: str) -> dict[str, Tensor]:
    """The weights in a file's content: all of it, or what a training program put beside its optimizer's state."""
    if _is_state_dict(content):
        return dict(content)
    found = list(_weights_within(content, depth=_WRAPPERS))
    if len(found) > 1:
        raise CheckpointError(
            f"{name} holds {len(found)} state dicts, under {', '.join(shown(place) for place, _ in found[:8])}, and nothing says which "
            "is the model; expected one; save the one to export with save_pretrained()"
        )
    if not found:
        raise CheckpointError(f"{name} holds more than named tensors; expected a state dict, as save_pretrained() writes it")
    return found[0][1]


def _is_state_dict(content: object) -> TypeGuard[dict[str, Tensor]]:
    return isinstance(content, dict) and all(isinstance(key, str) and isinstance(item, Tensor) for key, item in content.items())


def _weights_within(content: object, *, depth: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The state dicts within at most `depth` others, each with the keys that lead to it. One without a matrix holds no weights."""
    if not isinstance(content, dict) or not depth:
        return
    for key, item in content.items():
        if not isinstance(key, str) or "optim" in key:
            continue
        if not _is_state_dict(item):
            yield from ((f"{key}.{inner}", tensors) for inner, tensors in _weights_within(item, depth=depth - 1))
        elif any(tensor.dim() > 1 for tensor in item.values()):
            yield key, dict(item)


def _check_members(path: Path) -> None:
    """Holds the zip file that torch.save() writes to its size: nothing in it is compressed, and its pickle is small beside its storages."""
    if not zipfile.is_zipfile(path):
        raise ValueError("it is cut short: the end that a zip file has is missing")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("it is compressed, which torch.save() never does")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise ValueError("its members are larger than the file")
    pickles = [member.file_size for member in members if member.filename.endswith(".pkl")]
    if max(pickles, default=0) > JSON_BYTES:
        raise ValueError(f"its pickle has {max(pickles)} bytes, expected at most {JSON_BYTES}")


def _check_tensors(tensors: dict[str, Tensor], name: str, *, file_bytes: int) -> None:
    if len(tensors) > _TENSORS:
        raise CheckpointError(f"{name} holds {len(tensors)} tensors, expected at most {_TENSORS}")
    claimed = 0
    for key, tensor in tensors.items():
        if len(key) > _NAME_CHARACTERS:
            raise CheckpointError(f"{name} holds a tensor with a name of {len(key)} characters, expected at most {_NAME_CHARACTERS}")
        if not _is_plain(tensor):
            raise UnsupportedError(f"{name} holds {shown(key)}, which is sparse, quantized or without numbers; supported are plain tensors")
        size_bytes = tensor.numel() * tensor.element_size()
        claimed += size_bytes
        if size_bytes > tensor.untyped_storage().nbytes() or claimed > _NAMES_OF_A_NUMBER * file_bytes:
            raise CheckpointError(
                f"{name} holds {shown(key)} of {shown(list(tensor.shape))}, larger than what is stored; the file is damaged or was made to "
                "fill the memory; fetch it again"
            )


def _is_plain(tensor: Tensor) -> bool:
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not (tensor.is_nested or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
    )
