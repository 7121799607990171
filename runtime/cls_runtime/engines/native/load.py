"""Loads a bundle's native weights, mapped into memory, onto our own kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Manifest, Output
from cls_runtime.engines.native.engine import NativeEngine
from cls_runtime.engines.native.library import library
from cls_runtime.engines.native.structures import OutputName
from cls_runtime.engines.native.weights import NativeModel
from cls_runtime.engines.native.weights_file import read
from cls_runtime.engines.preference import NATIVE
from cls_runtime.errors import BundleError, UsageError


def load(
    bundle: Bundle,
    *,
    variant: str,
    threads: int,
    devices: Sequence[int] = (),  # noqa: ARG001  no GPU
    kernels: str | None = None,
) -> NativeEngine:
    """Loads a variant's weights; see `EngineModule.load`. `kernels` names a kernel family that this CPU runs; None takes the best."""
    library()  # says what is missing before files are read
    entry = bundle.manifest.variants.get(variant)
    files = () if entry is None else entry.engine_files.get(NATIVE, ())
    if not files:
        raise UsageError(f"bundle {bundle.folder} has no {variant} weights for engine native; export it again, or use another engine")
    path = bundle.locate(files[0])
    model = read(path)
    if (objection := _objection(model, bundle.manifest)) is not None:
        raise BundleError(f"{path} has {objection}; copy or export the bundle again")
    return NativeEngine(model, threads=threads, kernels=kernels)


def _objection(model: NativeModel, manifest: Manifest) -> str | None:
    """Where the weights are not those of the manifest's model."""
    recorded: dict[Output, OutputName] = {
        "cls": "sentence",
        "sentence": "sentence",
        "pooler": "pooler",
        "logits": "logits",
        "tokens": "tokens",
    }
    expected = {recorded[output]: manifest.width(output) for output in manifest.recorded_outputs}
    held = {name: model.widths[name] for name in expected if name in model.widths}
    if held != expected:
        return f"outputs {_widths(held)}, the manifest says {_widths(expected)}"
    for name, found, said in (
        ("max_length", model.max_length, manifest.max_length),
        ("hidden_size", model.hidden_size, manifest.hidden_size),
        ("mean_pooled", model.mean_pooled, manifest.pooling == "mean"),
    ):
        if found != said:
            return f"{name} {found}, the manifest says {said}"
    return None


def _widths(widths: Mapping[OutputName, int]) -> str:
    return ", ".join(f"{name} {width}" for name, width in widths.items()) or "none"
