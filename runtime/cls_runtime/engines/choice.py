"""Which engine and which variant `auto` means on this machine, and why.

`auto` takes only what is installed, and only a variant whose recorded parity holds every threshold of `cls_runtime.parity`. Whatever is
asked for by name is taken or is an error; nothing is replaced silently.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import cast

from cls_runtime.cpu import cpu_features
from cls_runtime.engines.base import EngineModule
from cls_runtime.errors import BundleError, EngineError, MissingExtraError, UsageError
from cls_runtime.manifest import Manifest, Variant
from cls_runtime.parity import shortfalls, thresholds_for

ENGINE_NAMES = ("auto", "onnxruntime", "openvino", "cuda", "tensorrt")
VARIANT_NAMES = ("auto", "fp32", "fp16", "int8", "bf16")


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """How to get an engine: the module here, the package that it imports, the extra that brings it, and its variants, fastest first."""

    module: str
    package: str
    extra: str
    variants: tuple[str, ...]


# Fastest first. fp16 is not in a CPU engine's variants: every operator is cast to fp32 and back.
ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(module="cls_runtime.engines.onnxruntime", package="onnxruntime", extra="cpu", variants=("int8", "fp32")),
}


@dataclass(frozen=True)
class Choice:
    """An engine and a variant, with the reasons in the order in which they were found."""

    engine: str
    variant: str
    reasons: tuple[str, ...]


def choose(manifest: Manifest, *, engine: str = "auto", variant: str = "auto") -> Choice:
    """Resolves `auto` and checks what was asked for by name.

    Raises:
        UsageError: an unknown name, or a variant that the bundle lacks or that is not for the engine.
        MissingExtraError: the engine is not installed.
        EngineError: the engine is not part of this version, or this CPU lacks what the variant assumes.
        BundleError: `auto`, and no variant meets its thresholds.
    """
    for kind, value, names in (("engine", engine, ENGINE_NAMES), ("variant", variant, VARIANT_NAMES)):
        if value not in names:
            raise UsageError(f"{kind} is {value!r}, expected one of {', '.join(names)}")
    engine, engine_reason = _choose_engine(engine)
    if variant == "auto":
        variant, variant_reasons = _choose_variant(manifest, engine)
    else:
        _check_variant(manifest, engine, variant)
        variant_reasons = (f"variant {variant}: asked for",)
    return Choice(engine, variant, (engine_reason, *variant_reasons))


def engine_module(engine: str) -> EngineModule:
    """The module of an engine that `choose` returned."""
    return cast("EngineModule", import_module(ENGINES[engine].module))


def installed_engines() -> tuple[str, ...]:
    """The engines whose package is installed, fastest first; none of them is imported."""
    return tuple(name for name, kind in ENGINES.items() if find_spec(kind.package) is not None)


def require_engine(engine: str) -> None:
    """Checks that an engine is part of this version and installed.

    Raises:
        EngineError: it is not part of this version.
        MissingExtraError: it is not installed; the message names the pip command.
    """
    if engine not in ENGINES:
        raise EngineError(f"engine {engine!r} is not part of this version of cls-export; it has {', '.join(ENGINES)}")
    if find_spec(ENGINES[engine].package) is None:
        raise MissingExtraError(f"engine {engine} needs {ENGINES[engine].package}; run: pip install cls-export[{ENGINES[engine].extra}]")


def auto_objection(manifest: Manifest, engine: str, variant: str) -> str | None:
    """Why `auto` does not take `variant` on `engine`; None where it may."""
    if variant not in manifest.variants:
        return "not in the bundle"
    entry = manifest.variants[variant]
    if variant not in ENGINES[engine].variants or engine not in entry.engines:
        return f"not for {engine}"
    features = cpu_features() or frozenset()
    if missing := [feature for feature in entry.cpu_features if feature not in features]:
        return f"needs {', '.join(missing)}, which this CPU is not known to have"
    return _parity_objection(variant, entry)


def _choose_engine(engine: str) -> tuple[str, str]:
    if engine == "auto":
        installed = installed_engines()
        if not installed:
            raise MissingExtraError("no inference engine is installed; run: pip install cls-export[cpu]")
        return installed[0], f"engine {installed[0]}: the fastest of those installed ({', '.join(installed)})"
    require_engine(engine)
    return engine, f"engine {engine}: asked for"


def _choose_variant(manifest: Manifest, engine: str) -> tuple[str, tuple[str, ...]]:
    passed_over: list[str] = []
    for variant in ENGINES[engine].variants:
        objection = auto_objection(manifest, engine, variant)
        if objection is None:
            return variant, (*passed_over, f"variant {variant}: the fastest on {engine} whose recorded parity meets its thresholds")
        passed_over.append(f"variant {variant}: passed over, {objection}")
    held = ", ".join(manifest.variants) or "none"
    raise BundleError(f"no variant for {engine} ({'; '.join(passed_over)}); the bundle has {held}, name one with variant=...")


def _check_variant(manifest: Manifest, engine: str, variant: str) -> None:
    if variant not in manifest.variants:
        raise UsageError(
            f"the bundle has no variant {variant!r}, it has {', '.join(manifest.variants) or 'none'}; export it with --{variant}"
        )
    entry = manifest.variants[variant]
    if engine not in entry.engines:
        raise UsageError(f"variant {variant} is for {', '.join(entry.engines)}, not for {engine}; choose another engine or variant")
    features = cpu_features()
    if features is not None and (missing := [feature for feature in entry.cpu_features if feature not in features]):
        raise EngineError(f"variant {variant} needs a CPU with {', '.join(missing)}, which this one lacks; use another variant")


def _parity_objection(variant: str, entry: Variant) -> str | None:
    if not entry.parity:
        return "no parity recorded"
    for output, figures in entry.parity.items():
        if missed := shortfalls(figures, thresholds_for(variant, output)):
            return f"{output} {missed[0]}"
    return None
