"""PyTorch's activations by the kernels' names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from cls_exporter.native.reasons import NotNativeError
from cls_runtime.engines.native.weights import Activation

# Classes of torch.nn and of transformers; `nn.GELU` may be either, by its `approximate`.
_NAMES: Mapping[str, Activation] = {
    "GELUActivation": "gelu",
    "NewGELUActivation": "gelu_tanh",
    "FastGELUActivation": "gelu_tanh",
    "GELUTanh": "gelu_tanh",
    "PytorchGELUTanh": "gelu_tanh",
    "ReLU": "relu",
    "SiLU": "silu",
    "SiLUActivation": "silu",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Identity": "identity",
    "LinearActivation": "identity",
}


def activation_of(module: Any, *, where: str) -> Activation:
    """The kernels' name of an activation.

    Raises:
        NotNativeError: they do not have it.
    """
    if isinstance(module, nn.GELU):
        return "gelu" if module.approximate == "none" else "gelu_tanh"
    kind = type(module)
    known = _NAMES.get(kind.__name__) if kind.__module__.startswith(("torch.", "transformers.activations")) else None
    if known is None:
        raise NotNativeError(f"the activation {kind.__name__} of {where}")
    return known
