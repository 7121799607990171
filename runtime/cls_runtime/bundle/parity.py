"""Parity figures, and the one table of thresholds that a variant is held to.

>>> import numpy as np
>>> reference = np.eye(3, dtype=np.float32)
>>> parity_figures(reference, reference).min_cosine
1.0
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import EngineParity, ParityFigures, Variant

Float32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """What a variant's vectors must reach against PyTorch fp32; None where a figure is recorded but not held to a bound.

    `batch_max_abs` and `batch_min_cosine` bound the difference between a text's vector alone and in a batch.
    """

    mean_cosine: float | None
    p1_cosine: float | None
    min_cosine: float | None
    max_abs: float | None
    batch_max_abs: float | None
    batch_min_cosine: float | None


# The contract's table. Beside each line: what was measured on all-MiniLM-L6-v2 (mean cosine, max abs).
THRESHOLDS: dict[str, Thresholds] = {
    "fp32": Thresholds(mean_cosine=0.9999999, p1_cosine=None, min_cosine=0.999999, max_abs=5e-5, batch_max_abs=1e-5, batch_min_cosine=None),
    "fp16": Thresholds(mean_cosine=0.99999, p1_cosine=None, min_cosine=0.9999, max_abs=2e-2, batch_max_abs=1e-2, batch_min_cosine=None),
    "tf32": Thresholds(mean_cosine=0.999995, p1_cosine=None, min_cosine=0.99999, max_abs=1e-2, batch_max_abs=5e-3, batch_min_cosine=None),
    "bf16": Thresholds(mean_cosine=0.9999, p1_cosine=None, min_cosine=0.9995, max_abs=6e-2, batch_max_abs=5e-2, batch_min_cosine=None),
    "int8": Thresholds(mean_cosine=0.999, p1_cosine=0.998, min_cosine=0.995, max_abs=None, batch_max_abs=None, batch_min_cosine=0.9999),
}


# Of engines whose own form of a variant is held to more, and has figures of its own on record.
ENGINE_THRESHOLDS: dict[str, dict[str, Thresholds]] = {
    "native": {
        "fp32": replace(THRESHOLDS["fp32"], batch_max_abs=0.0),
        "int8": Thresholds(mean_cosine=0.9996, p1_cosine=0.9992, min_cosine=0.999, max_abs=None, batch_max_abs=0.0, batch_min_cosine=None),
    },
}


def thresholds_for(variant: str, output: str, *, engine: str | None = None) -> Thresholds:
    """The thresholds of one output (`cls`, `pooler`, `logits`) of a variant, on an engine.

    Logits are held to the differences only: a cosine of one or two numbers that may cross zero says nothing.
    """
    thresholds = ENGINE_THRESHOLDS.get(engine or "", {}).get(variant, THRESHOLDS[variant])
    if output != "logits":
        return thresholds
    return replace(thresholds, mean_cosine=None, p1_cosine=None, min_cosine=None, batch_min_cosine=None)


def vector_bits(vectors: Float32) -> str:
    """SHA-256, in hexadecimal, of vectors [n, width] as little-endian float32, row after row.

    >>> vector_bits(np.zeros((1, 2), np.float32))[:8]
    'af5570f5'
    """
    return hashlib.sha256(np.ascontiguousarray(vectors, dtype="<f4").tobytes()).hexdigest()


def cosines(reference: Float32, vectors: Float32) -> NDArray[np.float64]:
    """Cosine similarity row by row, in float64. [n, width], [n, width] -> [n]. A NaN or zero row gives NaN."""
    a, b = reference.astype(np.float64), vectors.astype(np.float64)
    with np.errstate(all="ignore"):
        norms = np.sqrt((a * a).sum(1)) * np.sqrt((b * b).sum(1))
        return np.asarray((a * b).sum(1) / norms, dtype=np.float64)


def parity_figures(reference: Float32, vectors: Float32) -> ParityFigures:
    """Parity figures of `vectors` [n, width] against `reference` [n, width].

    Rows that are equal have cosine 1 by definition, whatever their norm; a NaN counts as cosine -1 and an infinite difference, so that it
    fails every threshold.

    Raises:
        ValueError: the shapes differ, or there are no rows.
    """
    if reference.shape != vectors.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"shapes {reference.shape} and {vectors.shape}: expected two equal, non-empty [n, width]")
    cosine = cosines(reference, vectors)
    cosine[(reference == vectors).all(1)] = 1.0
    cosine = np.clip(np.where(np.isnan(cosine), -1.0, cosine), -1.0, 1.0)
    with np.errstate(all="ignore"):
        difference = np.abs(reference.astype(np.float64) - vectors.astype(np.float64)).max(1)
    difference = np.where(np.isnan(difference), np.inf, difference)
    worst = int(np.argmin(cosine)) if cosine.min() < 1.0 - 1e-6 else int(np.argmax(difference))
    return ParityFigures(
        texts=len(cosine),
        mean_cosine=float(cosine.mean()),
        p1_cosine=float(np.percentile(cosine, 1)),
        min_cosine=float(cosine.min()),
        max_abs=float(min(difference.max(), np.finfo(np.float64).max)),
        worst_text=worst,
    )


def shortfalls(figures: ParityFigures, thresholds: Thresholds) -> list[str]:
    """Every threshold that `figures` misses, as 'found, expected' phrases; empty where all hold."""
    missed: list[str] = []
    for name in ("mean_cosine", "p1_cosine", "min_cosine"):
        bound = getattr(thresholds, name)
        if bound is not None and not getattr(figures, name) >= bound:
            missed.append(f"{name} {getattr(figures, name):.8f}, expected at least {bound}")
    if thresholds.max_abs is not None and not figures.max_abs <= thresholds.max_abs:
        missed.append(f"max_abs {figures.max_abs:.3g}, expected at most {thresholds.max_abs:g}")
    return missed


def batch_shortfalls(figures: ParityFigures, thresholds: Thresholds) -> list[str]:
    """The same for `figures` between a text alone and the same text in a batch."""
    return _batch_shortfalls(figures.max_abs, figures.min_cosine, thresholds)


def recorded_shortfalls(name: str, variant: Variant, *, engine: str | None = None) -> list[str]:
    """Every threshold that the figures on record for the variant `name`, on `engine`, miss; that there are none is a miss too."""
    held: EngineParity | Variant | None = variant.engine_parity.get(engine or "")
    if held is None and engine not in ENGINE_THRESHOLDS:
        held = variant
    if held is None or not held.parity:
        return ["no parity recorded" + (f" for {engine}" if held is None else "")]
    missed = [
        f"{output} {phrase}"
        for output, figures in held.parity.items()
        for phrase in shortfalls(figures, thresholds_for(name, output, engine=engine))
    ]
    bounds = thresholds_for(name, "cls", engine=engine)
    return missed + _batch_shortfalls(held.batch_invariance_max_abs, held.batch_invariance_min_cosine, bounds)


def _batch_shortfalls(max_abs: float, min_cosine: float, thresholds: Thresholds) -> list[str]:
    missed: list[str] = []
    if thresholds.batch_max_abs is not None and not max_abs <= thresholds.batch_max_abs:
        missed.append(f"batch invariance max_abs {max_abs:.3g}, expected at most {thresholds.batch_max_abs:g}")
    if thresholds.batch_min_cosine is not None and not min_cosine >= thresholds.batch_min_cosine:
        missed.append(f"batch invariance min_cosine {min_cosine:.8f}, expected at least {thresholds.batch_min_cosine}")
    return missed
