"""What the export recorded of a variant on an engine: its figures, and of an engine that gives the same bits everywhere, the bits."""

from __future__ import annotations

from collections.abc import Mapping

from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Manifest, Output, ParityFigures
from cls_runtime.bundle.parity import vector_bits
from cls_runtime.verifying.vector_checks import Encodes, Finding, golden_rows

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


def same_bits(encoder: Encodes, golden: Golden, bits: Mapping[Output, str]) -> Finding:
    """Holds the golden texts' vectors to the bits of the export; `bits` as `recorded_bits` gives them, of at least one output."""
    vectors, other = 0, []
    for output, digest in bits.items():
        rows, _ = golden_rows(encoder, golden, output)
        vectors += len(rows.vectors)
        if vector_bits(rows.vectors) != digest:
            other.append((output, len(rows.vectors)))
    if not other:
        return Finding(
            passed=True,
            message=f"{vectors} vectors bit for bit those of the export ({', '.join(bits)})",
            figures={"vectors": vectors, "outputs_that_differ": 0},
        )
    found = ", ".join(f"{output} ({count} vectors)" for output, count in other)
    message = (
        f"{found} {'is' if len(other) == 1 else 'are'} not bit for bit what the export computed; expected the same bits on every machine: "
        "compare cls-export-native's version with the export's, run cls-doctor, and report it if it finds nothing"
    )
    return Finding(passed=False, message=message, figures={"vectors": vectors, "outputs_that_differ": len(other)})
