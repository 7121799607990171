"""The native forms of an export's variants: weights for our own kernels beside each graph, where the kernels know the layers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.gate.native_gate import FILE_NAMES, HeldForm, hold_native
from cls_exporter.gate.prompted_batch import PromptedBatch
from cls_exporter.native import NotNativeError, check_follows, float_model, int8_forms
from cls_exporter.variants import CalibrationTexts
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import Golden
from cls_runtime.bundle.manifest import Variant
from cls_runtime.engines.preference import NATIVE

_TRIAL_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class NativeVariants:
    """The variants with their native forms, and notes for the report."""

    variants: Mapping[str, Variant]
    notes: tuple[str, ...]


def with_native_forms(
    variants: Mapping[str, Variant],
    checkpoint: Checkpoint,
    bundle: Bundle,
    golden: Golden,
    prompted: PromptedBatch | None,
    *,
    calibration: CalibrationTexts,
) -> NativeVariants:
    """Writes native weights of int8 and, where it is there, of fp32, and holds each to PyTorch; a note where there can be none.

    A checkpoint whose layers the kernels do not know is exported without. Of one whose layers they know, int8 keeps as many products in
    float32 as the gate asks for.

    Raises:
        ParityError: a form misses a threshold, of int8 the one with every product in float32.
    """
    try:
        model = float_model(checkpoint)
        check_follows(model, checkpoint, golden.texts[:_TRIAL_TEXTS])
    except NotNativeError as reason:
        return NativeVariants(variants=variants, notes=(f"runs on ONNX Runtime: the native kernels do not support {reason}",))
    done, notes = dict(variants), []
    for name in FILE_NAMES:
        if name in variants:
            forms = int8_forms(model, checkpoint, calibration) if name == "int8" else [model]
            held = hold_native(forms, bundle, golden, variant=name, prompted=prompted)
            done[name] = _with_form(variants[name], held)
            notes.append(held.note)
    return NativeVariants(variants=done, notes=tuple(dict.fromkeys(note for note in notes if note)))


def _with_form(variant: Variant, held: HeldForm) -> Variant:
    return dataclasses.replace(
        variant,
        engines=(*variant.engines, NATIVE),
        engine_files={**variant.engine_files, NATIVE: (held.file,)},
        engine_parity={**variant.engine_parity, NATIVE: held.parity},
        recipe={**variant.recipe, NATIVE: dict(held.model.recipe)},
    )
