"""What the export recorded of a variant on an engine: its figures, and of an engine that gives the same bits everywhere, the bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Manifest, Output, ParityFigures
from cls_runtime.bundle.parity import vector_bits
from cls_runtime.verifying.vector_checks import Encodes, Finding, golden_rows

Float32 = NDArray[np.float32]

RECORDED_ENGINE = "onnxruntime"  # on which an export measures the figures of a variant


def recorded_parity(manifest: Manifest, variant: str, engine: str, output: Output) -> ParityFigures | None:
    """The figures of an output that this engine's are to be near to; None where there are none, and of logits."""
    entry = manifest.variants.get(variant)  # None for what the engine makes itself, such as bf16
    if entry is None or output == "logits":
        return None
    if engine in entry.engine_parity:
        return entry.engine_parity[engine].parity.get(output)
    return entry.parity.get(output) if engine == RECORDED_ENGINE else None


def recorded_bits(manifest: Manifest, variant: str, engine: str) -> Mapping[Output, str]:
    """By output the `vector_bits` of the golden texts on this engine; empty where the export has none."""
    entry = manifest.variants.get(variant)
    own = None if entry is None else entry.engine_parity.get(engine)
    if own is None:
        return {}
    return {output: own.bits[output] for output in manifest.recorded_outputs if output in own.bits}


def same_bits(encoder: Encodes, golden: Golden, bits: Mapping[Output, str], *, portable: Callable[[], Encodes]) -> Finding:
    """Holds the golden texts' vectors to the bits of the export.

    Args:
        encoder: on the kernels that this CPU has.
        golden: the golden vectors, of which the texts are encoded.
        bits: as `recorded_bits` gives them, of at least one output.
        portable: the same weights on the portable kernels, asked for where the bits are others: it tells wrong kernels from other weights.
    """
    vectors = {output: golden_rows(encoder, golden, output)[0].vectors for output in bits}
    others = [output for output, rows in vectors.items() if vector_bits(rows) != bits[output]]
    count = sum(map(len, vectors.values()))
    if not others:
        message = f"{count} vectors equal the export's bit for bit ({', '.join(bits)})"
        return Finding(passed=True, message=message, figures={"vectors": count, "other_than_portable": 0})
    plain = portable()
    differing = sum(int((_words(vectors[output]) != _words(golden_rows(plain, golden, output)[0].vectors)).any(1).sum()) for output in bits)
    found = f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not equal to the export's bit for bit"
    if differing:
        found += (
            f"; {differing} of {count} vectors differ from those of the portable kernels: these kernels are wrong on this CPU, report it"
        )
    else:
        found += (
            "; the portable kernels give the same: compare cls-export-native's version with the export's, and the bundle's files with it"
        )
    return Finding(passed=False, message=found, figures={"vectors": count, "other_than_portable": differing})


def _words(rows: Float32) -> NDArray[np.uint32]:
    """The bits of float32 numbers."""
    return np.ascontiguousarray(rows, dtype=np.float32).view(np.uint32)
