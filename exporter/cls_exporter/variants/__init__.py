"""One file a variant: each turns the compiled fp32 graph into that variant's graph and says how."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_ir as ir

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.config import Precision
from cls_exporter.variants.calibration_texts import CalibrationTexts
from cls_exporter.variants.fp16 import build_fp16
from cls_exporter.variants.fp32 import build_fp32
from cls_exporter.variants.int8 import build_int8
from cls_exporter.variants.variant import Built

__all__ = ["Built", "CalibrationTexts", "build_variant"]


def build_variant(
    variant: Precision,
    model: ir.Model,
    *,
    checkpoint: Checkpoint,
    parity: Sequence[str],
    calibration: CalibrationTexts,
    whole: ir.Model | None = None,
) -> Built:
    """Builds the graph of one variant; `model` is left as it was.

    Args:
        variant: which.
        model: a compiled fp32 graph.
        checkpoint: what it was traced from.
        parity: the texts that the variant will be held to; fp16 tries its range on them.
        calibration: other texts, which int8 takes its scales from.
        whole: the same graph with every row of every layer, which fp16's form for GPUs is made of; None for no such form.

    Raises:
        UnsupportedError: int8, and the graph has nothing to quantize.
        GraphError: fp16, and the graph or its weights cannot be computed so.
        ParityError: fp16, and a parity text drives a number beyond its range.
    """
    if variant == "fp16":
        return build_fp16(model, checkpoint=checkpoint, texts=parity, whole=whole)
    if variant == "int8":
        return build_int8(model, checkpoint=checkpoint, texts=calibration)
    return build_fp32(model)
