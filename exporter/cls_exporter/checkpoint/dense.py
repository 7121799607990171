"""sentence-transformers' Dense module, a Linear and its activation behind the pooled row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from cls_exporter.checkpoint.config_fields import as_integer, is_integer
from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.sentence_settings import check_sentence_embedding, switch, unknown_keys
from cls_exporter.checkpoint.tensor_files import as_float32
from cls_exporter.checkpoint.weights import read_weights
from cls_exporter.errors import CheckpointError, UnsupportedError, shown

_ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "torch.nn.modules.linear.Identity": nn.Identity,
    "torch.nn.modules.activation.Tanh": nn.Tanh,
    "torch.nn.modules.activation.ReLU": nn.ReLU,
    "torch.nn.modules.activation.GELU": nn.GELU,
    "torch.nn.modules.activation.Sigmoid": nn.Sigmoid,
}
_KNOWN = {"in_features", "out_features", "bias", "activation_function", "use_residual", "module_input_name", "module_output_name"}


@dataclass(frozen=True)
class Dense:
    """A Dense module: its two layers, the same in words, the files that its weights came from, and entries that are not known."""

    linear: nn.Linear
    activation: nn.Module
    described: str
    files: tuple[Path, ...]
    unknown: tuple[str, ...]


def read_dense(folder: CheckpointFolder, width: int) -> Dense:
    """Reads the module in `folder`, whose input is `width` wide.

    Raises:
        CheckpointError: its sizes, its weights and the row before it do not fit.
        UnsupportedError: it computes anything else than a Linear and a known activation of the sentence embedding.
    """
    config = folder.json_object("config.json")
    where = f"the Dense module in {folder.name}"
    name = config.get("activation_function", "torch.nn.modules.activation.Tanh")
    activation = _ACTIVATIONS.get(name) if isinstance(name, str) else None
    if activation is None:
        raise UnsupportedError(
            f"{where} has the activation {shown(name)}; supported are {', '.join(kind.__name__ for kind in _ACTIVATIONS.values())}"
        )
    if switch(config, "use_residual", where, default=False):
        raise UnsupportedError(f"{where} has use_residual; supported is a Linear and its activation")
    check_sentence_embedding(config, where)
    out_features: Any = as_integer(config.get("out_features"))
    if not is_integer(out_features, 1) or as_integer(config.get("in_features", width)) != width:
        sizes = f"in_features {shown(config.get('in_features'))} and out_features {shown(config.get('out_features'))}"
        raise CheckpointError(f"{where} has {sizes}; expected {width} and an integer above 0")
    weights = read_weights(folder)
    expected = {"linear.weight": [out_features, width]}
    if switch(config, "bias", where, default=True):
        expected["linear.bias"] = [out_features]
    shapes = {key: list(tensor.shape) for key, tensor in weights.tensors.items()}
    if shapes != expected:
        raise CheckpointError(f"{where} holds {shown(shapes)}; expected {expected}")
    linear = nn.Linear(width, out_features, bias="linear.bias" in expected, device="meta")
    linear.load_state_dict({key.removeprefix("linear."): as_float32(key, tensor) for key, tensor in weights.tensors.items()}, assign=True)
    described = f"Linear({width}, {out_features}) + {activation.__name__}"
    return Dense(linear, activation(), described, weights.files, unknown_keys(config, _KNOWN, where))
