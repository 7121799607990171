"""One file a precision: each turns the compiled fp32 graph into that variant's graph and says how."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.config import Precision
from cls_exporter.variants.fp16 import build_fp16
from cls_exporter.variants.fp32 import build_fp32
from cls_exporter.variants.int8 import build_int8
from cls_exporter.variants.variant import Built

__all__ = ["Built", "build_variant"]


def build_variant(precision: Precision, model: ir.Model, *, checkpoint: Checkpoint, calibration: Path | None = None) -> Built:
    """Builds the graph of one precision; `model` is left as it was.

    Raises:
        UnsupportedError: int8, and the graph has nothing to quantize.
        UsageError: the calibration file cannot be read or holds no text.
        GraphError: fp16, and the graph or its weights cannot be computed so.
        ParityError: fp16, and a parity text drives a number beyond its range.
    """
    if precision == "fp16":
        return build_fp16(model, checkpoint=checkpoint)
    if precision == "int8":
        return build_int8(model, checkpoint=checkpoint, calibration=calibration)
    return build_fp32(model)
