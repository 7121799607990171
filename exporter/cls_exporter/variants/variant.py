"""What a precision's builder gives, and where its file goes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir

FILE_NAMES: Mapping[str, tuple[str, ...]] = {
    "fp32": ("onnx/model.onnx",),
    "fp16": ("onnx/model_fp16.onnx",),
    "int8": ("onnx/model_int8.onnx", "onnx/model_quantized.onnx"),  # the second is the name that browsers ask for
}


def engine_file(precision: str, engine: str) -> str:
    """Where the form of a graph that is for one engine goes."""
    return f"onnx/model_{precision}_{engine}.onnx"


@dataclass(frozen=True, kw_only=True)
class Built:
    """A variant's graph, how it was made, what it needs of the CPU, and what was tried, for the message if the gate refuses it.

    `engine_models` are other forms of the same graph, for engines that compute those faster.
    """

    model: ir.Model
    engine_models: Mapping[str, ir.Model] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    cpu_features: tuple[str, ...] = ()
    tried: str = ""
