"""The parity gate: what an export must pass before its bundle appears."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cls_exporter.errors import ParityError
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Output, ParityFigures
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.encoder import Encoder
from cls_runtime.encoding.batching import pad
from cls_runtime.encoding.tokenizer import TokenizedText
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.choice import engine_module
from cls_runtime.errors import EngineError
from cls_runtime.verifying import vector_checks

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
            figures = parity_figures(golden.vectors[output], vectors)
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
    _check_odd_batches(folder, variant=variant, golden=golden, outputs=outputs)
    return Measured(
        parity=parity,
        batch_invariance_max_abs=float(np.float64(invariance.figures["max_abs"])),
        batch_invariance_min_cosine=float(np.float64(invariance.figures["min_cosine"])),
    )


def _check_odd_batches(folder: Path, *, variant: str, golden: Golden, outputs: Sequence[Output]) -> None:
    """What no text makes of a tokenizer, but other programs may feed to the graph: one token, and a row of padding beside the longest text.

    Raises:
        ParityError: a number is not finite, or the engine cannot compute such a batch.
    """
    assert golden.token_ids is not None
    longest = max(golden.token_ids, key=len)
    first = longest[:1]
    batches = {
        "one token": [first],
        "the longest text, one token and a row that is all padding": [longest, first, ()],
    }
    engine = engine_module("onnxruntime").load(Bundle.open(folder), variant=variant, threads=1)
    try:
        for name, rows in batches.items():
            found = engine.run(_batch(rows), [GRAPH_OUTPUTS[output] for output in outputs])
            for output, vectors in zip(outputs, found, strict=True):
                if not np.isfinite(vectors).all():
                    raise ParityError(f"{variant} is not exported: {output} is not finite for a batch of {name}")
    except EngineError as error:
        raise ParityError(f"{variant} is not exported: {error}") from error
    finally:
        engine.close()


def _batch(rows: Sequence[Sequence[int]]) -> TokenBatch:
    """Token ids as arrays, padded with id 0 on the right, all of type 0."""
    return pad([TokenizedText(np.array(row, dtype=np.int32), np.zeros(len(row), dtype=np.int32), removed=0) for row in rows], pad_id=0)
