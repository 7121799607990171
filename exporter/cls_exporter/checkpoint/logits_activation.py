"""What sentence-transformers' CrossEncoder applies to a classifier's logits: it is named in one of three places, or there is a default.

The graph's logits stay without it. A manifest names it, so that whoever reads the logits can apply the same; one that no manifest can name
is refused, since a reader would take the logits for scores of another kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cls_exporter.checkpoint.folder import CheckpointFolder
from cls_exporter.checkpoint.sentence_transformers import MODULES
from cls_exporter.checkpoint.sentence_use import ROOT_SETTINGS
from cls_exporter.errors import CheckpointError, UnsupportedError, shown
from cls_runtime.bundle.manifest import LogitsActivation

_NAMES: Mapping[str, LogitsActivation] = {
    "Identity": "identity",
    "Sigmoid": "sigmoid",
    "Softmax": "softmax",
    "Tanh": "tanh",
    "ReLU": "relu",
    "GELU": "gelu",
}
_PLACES = ("torch.nn.modules.activation", "torch.nn.modules.linear", "torch.nn")


def logits_activation(folder: CheckpointFolder, config: Mapping[str, Any], *, labels: int) -> LogitsActivation:
    """The activation of a classifier with so many `labels`; `config` is the object in its config.json.

    Raises:
        CheckpointError: what names it is no name.
        UnsupportedError: it is none that a manifest can name.
    """
    where, name = _named(folder, config)
    if name is None:
        return "sigmoid" if labels == 1 else "identity"
    if not isinstance(name, str):
        raise CheckpointError(f"{where} has the activation {shown(name)}; expected the name of a class such as torch.nn.Sigmoid")
    place, _, kind = name.rpartition(".")
    if place in _PLACES and kind in _NAMES:
        return _NAMES[kind]
    raise UnsupportedError(
        f"{where} applies {shown(name)} to the logits, which a bundle's manifest cannot name; supported are {', '.join(_NAMES)} of "
        "torch.nn; name torch.nn.Identity in a copy and apply it yourself"
    )


def activation_notes(activation: LogitsActivation | None) -> tuple[str, ...]:
    """What the report says of it: where sentence-transformers gives other numbers than the graph."""
    if activation in (None, "identity"):
        return ()
    return (f"sentence-transformers applies {activation} to the logits; the graph gives them without it",)


def _named(folder: CheckpointFolder, config: Mapping[str, Any]) -> tuple[str, Any]:
    """The file and what it names, in sentence-transformers' order. Only a CrossEncoder's own folder is asked in its own file."""
    root = folder.json_object(ROOT_SETTINGS)
    if folder.has(MODULES) and root.get("model_type") == "CrossEncoder" and root.get("activation_fn") is not None:
        return ROOT_SETTINGS, root["activation_fn"]
    inner = config.get("sentence_transformers", {})
    if not isinstance(inner, dict):
        raise CheckpointError(f"config.json has sentence_transformers {shown(inner)}; expected an object")
    if "activation_fn" in inner:
        return "config.json", inner["activation_fn"]
    return "config.json", config.get("sbert_ce_default_activation_function")
