"""The parity gate: what an export must pass before its bundle appears."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cls_exporter.errors import ParityError
from cls_runtime import vector_checks
from cls_runtime.encoder import Encoder, Output
from cls_runtime.golden import Golden
from cls_runtime.manifest import ParityFigures
from cls_runtime.parity import compare, shortfalls, thresholds_for

_OUTPUTS: tuple[Output, ...] = ("cls", "pooler", "logits")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What the gate measured of a variant: parity by output, and how far a vector alone is from the same in a batch."""

    parity: Mapping[str, ParityFigures]
    batch_invariance_max_abs: float
    batch_invariance_min_cosine: float


def hold(folder: Path, *, variant: str, golden: Golden, tried: str = "") -> Measured:
    """Runs a variant of the bundle in `folder` on ONNX Runtime and holds it to PyTorch's vectors; `tried` is told where it misses.

    Raises:
        ParityError: a figure misses its threshold, a vector is not finite, or a text's vector depends on its batch; the message names the
            worst text.
    """
    outputs = [name for name in _OUTPUTS if name in golden.vectors]
    parity: dict[str, ParityFigures] = {}
    with Encoder.load(folder, variant=variant, engine="onnxruntime", on_overflow="truncate", on_invalid="keep") as loaded:
        encoder = vector_checks.EncodedOnce(loaded)
        finite = vector_checks.finite(encoder, golden.inputs, outputs)
        if not finite.passed:
            raise ParityError(f"{variant} is not exported: {finite.message}")
        for output in outputs:
            vectors = encoder.encode(golden.inputs, output=output)
            figures = compare(golden.vectors[output], vectors)
            missed = shortfalls(figures, thresholds_for(variant, output))
            if missed:
                worst = golden.inputs[figures.worst_text]
                raise ParityError(
                    f"{variant} is not exported: {output} against PyTorch has {'; '.join(missed)}; "
                    f"worst is text {figures.worst_text} {str(worst)[:60]!r}" + (f"; tried: {tried}" if tried else "")
                )
            parity[output] = figures
        invariance = vector_checks.batch_invariance(encoder, golden.inputs, thresholds_for(variant, "cls"))
        if not invariance.passed:
            raise ParityError(f"{variant} is not exported: {invariance.message}")
    return Measured(
        parity=parity,
        batch_invariance_max_abs=float(np.float64(invariance.figures["max_abs"])),
        batch_invariance_min_cosine=float(np.float64(invariance.figures["min_cosine"])),
    )
