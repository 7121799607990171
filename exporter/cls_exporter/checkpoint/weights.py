"""The weight files of a checkpoint as one state dict, read without running code from them."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from cls_exporter.checkpoint.source import inside, read_json_object
from cls_exporter.errors import CheckpointError
from cls_runtime.bundle.files import sha256

_FOREIGN = ("tf_model.h5", "flax_model.msgpack", "model.onnx", "rust_model.ot")


@dataclass(frozen=True)
class Weights:
    """A state dict as it was saved, and the files that it came from."""

    tensors: dict[str, Tensor]
    files: tuple[Path, ...]


def read_weights(folder: Path) -> Weights:
    """Reads `model.safetensors` or `pytorch_model.bin`, whole or sharded; safetensors wins where both are there.

    Raises:
        CheckpointError: there are no weights, a file is damaged, is a pickle of more than tensors, or a shard is missing or elsewhere.
    """
    for whole in ("model.safetensors", "pytorch_model.bin"):
        if (folder / whole).exists():
            return Weights(_read_file(folder / whole), (folder / whole,))
        index = folder / f"{whole}.index.json"
        if index.exists():
            return _read_shards(folder, index)
    others = sorted(
        path.name for path in folder.iterdir() if path.name in _FOREIGN or path.suffix in (".safetensors", ".bin", ".pt", ".ckpt")
    )
    raise CheckpointError(
        f"{folder.name} has no weights to read (found {', '.join(others) or 'none'}); expected model.safetensors or pytorch_model.bin, "
        "whole or with an index of shards; save it with save_pretrained()"
    )


def _read_shards(folder: Path, index: Path) -> Weights:
    placed = read_json_object(index).get("weight_map")
    if not isinstance(placed, dict) or not placed or not all(isinstance(name, str) for name in placed.values()):
        raise CheckpointError(f"{index.name} has no weight_map of tensor names to files; fetch the checkpoint again")
    tensors: dict[str, Tensor] = {}
    files = []
    for name in sorted(set(placed.values())):
        path = inside(folder, name, named_by=index.name)
        if not path.exists():
            raise CheckpointError(f"{index.name} names the shard {name}, which is not in {folder.name}; fetch the checkpoint again")
        tensors.update(_read_file(path))
        files.append(path)
    missing = sorted(set(placed) - set(tensors))
    if missing:
        raise CheckpointError(f"the shards of {index.name} lack {some_of(missing)}; fetch the checkpoint again")
    return Weights(tensors, tuple(files))


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise CheckpointError(
            f"{path.name} cannot be loaded as tensors only ({reason}); a pickle may run code, so nothing else is read from it; "
            "fetch it again, or convert it to safetensors where you trust it"
        ) from None
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict) or not all(isinstance(name, str) and isinstance(item, Tensor) for name, item in content.items()):
        raise CheckpointError(f"{path.name} holds more than named tensors; expected a state dict, as save_pretrained() writes it")
    return dict(content)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} is damaged or not safetensors ({error}); fetch the checkpoint again") from None


def sha256_of(files: Sequence[Path], *, root: Path) -> str:
    """The sha256 of a single file, so that it can be held against the hub's; of several, that of the lines `sha256  path-in-root`."""
    if len(files) == 1:
        return sha256(files[0])
    lines = [f"{sha256(path)}  {path.relative_to(root).as_posix()}\n" for path in sorted(files)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def some_of(names: Sequence[str]) -> str:
    """At most eight of `names` for a message, and how many more there are."""
    shown = ", ".join(names[:8])
    return shown if len(names) <= 8 else f"{shown} and {len(names) - 8} more"
