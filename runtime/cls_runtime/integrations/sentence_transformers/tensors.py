"""PyTorch tensors where a caller asks for them or brings them; without either, torch is never imported."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cls_runtime.errors import MissingExtraError


def torch_for(argument: str) -> Any:
    """The torch package, for an argument that asks for tensors.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import torch
    except ImportError:
        raise MissingExtraError(f"{argument} needs PyTorch, which is not installed; leave it out, or run: pip install torch") from None
    return torch


def is_tensor(value: object) -> bool:
    """Whether a value is a PyTorch tensor."""
    return any((kind.__module__, kind.__name__) == ("torch", "Tensor") for kind in type(value).__mro__)


def is_dtype(value: object) -> bool:
    """Whether a value is a PyTorch dtype."""
    return (type(value).__module__, type(value).__name__) == ("torch", "dtype")


def like_the_inputs(function: Callable[[ArrayLike, ArrayLike], NDArray[np.float32]], first: Any, second: Any) -> Any:
    """`function` of two collections of vectors as arrays; its result is a tensor where one of them is, or holds, a tensor."""
    tensor = next((found for found in (_tensor_in(first), _tensor_in(second)) if found is not None), None)
    result = function(_as_array(first), _as_array(second))
    return result if tensor is None else torch_for("a tensor").from_numpy(result).to(tensor.device)


def _tensor_in(vectors: Any) -> Any:
    if isinstance(vectors, (list, tuple)):
        vectors = next(iter(vectors), None)
    return vectors if is_tensor(vectors) else None


def _as_array(vectors: Any) -> Any:
    if isinstance(vectors, (list, tuple)):
        return [_as_array(vector) for vector in vectors]
    return vectors.detach().cpu().to_dense().double().numpy() if is_tensor(vectors) else vectors
