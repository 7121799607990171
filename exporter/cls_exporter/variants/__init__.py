"""One file a precision: each turns the compiled fp32 graph into that variant's graph and says how."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.config import Precision
from cls_exporter.errors import UnsupportedError
from cls_exporter.variants.int8 import build_int8
from cls_exporter.variants.variant import Built

__all__ = ["Built", "build_variant", "require_precisions"]

_BUILT = ("fp32", "int8")


def build_variant(precision: Precision, model: ir.Model, *, checkpoint: Checkpoint, calibration: Path | None = None) -> Built:
    """Builds the graph of one precision; `model` is left as it was.

    Raises:
        UnsupportedError: the precision is not part of this version, or the graph has nothing to quantize.
        UsageError: the calibration file cannot be read or holds no text.
    """
    if precision == "fp32":
        return Built(model=model, recipe={"weights": "float32", "compute": "float32"})
    if precision == "int8":
        return build_int8(model, checkpoint=checkpoint, calibration=calibration)
    raise _not_yet(precision)


def require_precisions(precisions: Sequence[Precision]) -> None:
    """Checks before any work that every precision can be built.

    Raises:
        UnsupportedError: one is not part of this version.
    """
    for precision in precisions:
        if precision not in _BUILT:
            raise _not_yet(precision)


def _not_yet(precision: Precision) -> UnsupportedError:
    return UnsupportedError(f"precision {precision} is not part of this version; expected {' or '.join(_BUILT)}; leave --{precision} out")
