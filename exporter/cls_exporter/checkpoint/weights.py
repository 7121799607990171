"""The weight files of a checkpoint as one state dict."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from cls_exporter.checkpoint.folder import CheckpointFolder, inside
from cls_exporter.checkpoint.tensor_files import read_tensors
from cls_exporter.errors import CheckpointError, shown
from cls_runtime.bundle.files import sha256

_FOREIGN = ("tf_model.h5", "flax_model.msgpack", "model.onnx", "rust_model.ot")
_WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".ckpt")
_NAME_CHARACTERS = 100


@dataclass(frozen=True)
class Weights:
    """A state dict as it was saved, and the files that it came from."""

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


def read_weights(folder: CheckpointFolder) -> Weights:
    """Reads `model.safetensors` or `pytorch_model.bin`, whole or sharded; safetensors wins where both are there.

    Raises:
        CheckpointError: there are no weights, a file is damaged, is a pickle of more than tensors, or a shard is missing or elsewhere.
        UnsupportedError: a tensor is not plain numbers.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if folder.has(whole):
            return Weights(read_tensors(folder, whole), (folder.path / whole,))
        index = f"{whole}.index.json"
        if folder.has(index):
            return _read_shards(folder, index)
    others = [name for name in folder.names() if name in _FOREIGN or name.endswith(_WEIGHT_SUFFIXES)]
    raise CheckpointError(
        f"{folder.name} has no weights to read (found {some_of(others) or 'none'}); expected model.safetensors or pytorch_model.bin, "
        "whole or with an index of shards; save it with save_pretrained()"
    )


def _read_shards(folder: CheckpointFolder, index: str) -> Weights:
    placed = folder.json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"{index} has no weight_map of tensor names to files; fetch the checkpoint again")
    tensors: dict[str, Tensor] = {}
    files = []
    for name in sorted(set(placed.values())):
        path = inside(folder.path, name, named_by=index)
        inner = path.relative_to(folder.path).as_posix()
        if not folder.has(inner):
            raise CheckpointError(f"{index} names the shard {shown_name(name)}, which is not in {folder.name}; fetch the checkpoint again")
        read = read_tensors(folder, inner)
        twice = sorted(read.keys() & tensors.keys())
        if twice:
            raise CheckpointError(f"the shards of {index} hold {some_of(twice)} twice; fetch the checkpoint again")
        tensors |= read
        files.append(path)
    missing = sorted(set(placed) - set(tensors))
    if missing:
        raise CheckpointError(f"the shards of {index} lack {some_of(missing)}; fetch the checkpoint again")
    return Weights(tensors, tuple(files))


def sha256_of(files: Sequence[Path], *, root: Path) -> str:
    """The sha256 of a single file, so that it can be held against the hub's; of several, that of the lines `sha256  path-in-root`."""
    if len(files) == 1:
        return sha256(files[0])
    lines = [f"{sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def some_of(names: Sequence[str]) -> str:
    """At most eight of `names`, which a file gave, for a message, and how many more there are."""
    some = ", ".join(shown_name(name) for name in names[:8])
    return some if len(names) <= 8 else f"{some} and {len(names) - 8} more"


def shown_name(name: str) -> str:
    """A name for a message: as it is, unless it is long or holds what a terminal acts on."""
    return name if name.isprintable() and len(name) <= _NAME_CHARACTERS else shown(name)
