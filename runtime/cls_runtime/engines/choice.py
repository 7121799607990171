"""Which engine and which variant `auto` means on this machine, and why.

`auto` takes only what is installed, and only a variant whose recorded parity holds every threshold of `cls_runtime.bundle.parity`.
Whatever is asked for by name is taken or is an error; nothing is replaced silently.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import cast

from cls_runtime.bundle.manifest import Manifest, Variant
from cls_runtime.bundle.parity import recorded_shortfalls
from cls_runtime.engines.base import EngineModule
from cls_runtime.engines.cpu import BF16_FEATURES, cpu_features
from cls_runtime.engines.installed import is_importable, is_installed
from cls_runtime.engines.preference import NATIVE, preferred_engine
from cls_runtime.errors import BundleError, EngineError, MissingExtraError, UsageError
from cls_runtime.option_checks import check_choice

ENGINE_NAMES = ("auto", "onnxruntime", "openvino", "native", "cuda")
VARIANT_NAMES = ("auto", "fp32", "fp16", "int8", "bf16", "tf32")
_NO_ENGINE = "no engine of this version"
# Names that an earlier version knew, and what to do instead.
TAKEN_OUT = {
    "tensorrt": "was taken out, since no version of it that pip installs could be shown to work; use engine 'cuda', on the same GPU"
}


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """How to get an engine: the module here, the package that it imports, the extra that brings it.

    `variants` are those that `auto` takes on it, fastest first; `by_name` those that it computes when they are asked for by name.
    """

    module: str
    package: str
    extra: str
    variants: tuple[str, ...]
    by_name: tuple[str, ...]


# What an engine makes of another variant's file: the fp32 file, computed in bf16 by a CPU that can, or with a GPU's TF32 products. There is
# no parity on record for it, so that `auto` never takes it.
_MADE_OF = {"bf16": "fp32", "tf32": "fp32"}

# A CPU engine casts every fp16 operator to fp32 and back, so `auto` takes none there.
ENGINES: dict[str, EngineKind] = {
    "onnxruntime": EngineKind(
        module="cls_runtime.engines.onnxruntime",
        package="onnxruntime",
        extra="cpu",
        variants=("int8", "fp32"),
        by_name=("fp32", "fp16", "int8"),
    ),
    "openvino": EngineKind(
        module="cls_runtime.engines.openvino",
        package="openvino",
        extra="openvino",
        variants=("int8", "fp32"),
        by_name=("fp32", "fp16", "int8", "bf16"),
    ),
    "native": EngineKind(
        module="cls_runtime.engines.native.load",
        package="cls_export_native",
        extra="native",
        variants=("int8", "fp32"),
        by_name=("fp32", "int8"),
    ),
    "cuda": EngineKind(
        module="cls_runtime.engines.cuda.load",
        package="onnxruntime",
        extra="gpu",
        variants=("fp16", "fp32"),
        by_name=("fp32", "fp16", "tf32"),
    ),
}

# The engines that `auto` may take, the first that is installed and computes the variant. Figures in docs/adr/0006-engines.md, from
# benchmarks/engines.py. None is a GPU's: whether a GPU is there shows only when it is used, and a service must not move to it because a
# wheel was installed.
CPU_ENGINES = ("native", "onnxruntime", "openvino")


@dataclass(frozen=True)
class Choice:
    """An engine and a variant, with the reasons in the order in which they were found."""

    engine: str
    variant: str
    reasons: tuple[str, ...]


def choose(manifest: Manifest, *, engine: str = "auto", variant: str = "auto") -> Choice:
    """Resolves `auto` and checks what was asked for by name.

    Raises:
        UsageError: an unknown name, a variant that the bundle lacks or that is not for the engine, or `auto` and only the GPU wheel.
        MissingExtraError: the engine is not installed.
        EngineError: this CPU lacks what the variant assumes.
        BundleError: `auto`, and no variant meets its thresholds.
    """
    check_engine(engine)
    check_choice("variant", variant, VARIANT_NAMES)
    if engine != "auto":
        require_engine(engine)
        candidates: tuple[str, ...] = (engine,)
    else:
        candidates = auto_engines(manifest, variant)
    passed_over: tuple[str, ...] = ()
    if variant == "auto":
        asked_for = False
        variant, passed_over = _choose_variant(manifest, candidates)
        candidates = tuple(name for name in candidates if auto_objection(manifest, name, variant) is None)
    else:
        asked_for = True
        _check_variant(manifest, candidates[0], variant)
    if engine == "auto":
        engine, engine_reason = preferred_engine(candidates, variant)
    else:
        engine_reason = f"engine {engine}: asked for"
    why = "asked for" if asked_for else f"the fastest on {engine} whose recorded parity meets its thresholds"
    return Choice(engine, variant, (engine_reason, *passed_over, f"variant {variant}: {why}"))


def check_engine(engine: object) -> None:
    """Checks that there is an engine of this name, or `auto`.

    Raises:
        UsageError: there is none, or none any more.
    """
    if isinstance(engine, str) and engine in TAKEN_OUT:
        raise UsageError(f"engine {engine} {TAKEN_OUT[engine]}")
    check_choice("engine", engine, ENGINE_NAMES)


def engine_module(engine: str) -> EngineModule:
    """The module of an engine that `choose` returned."""
    return cast("EngineModule", import_module(ENGINES[engine].module))


def installed_engines() -> tuple[str, ...]:
    """The CPU engines whose package is installed, in the order of `CPU_ENGINES`; none of them is imported."""
    return tuple(name for name in CPU_ENGINES if is_importable(ENGINES[name].package))


def automatic_engines() -> tuple[str, ...]:
    """The engines that `auto` chooses among: those of `installed_engines`, without ONNX Runtime where its wheel is the GPU's alone.

    Who installed that wheel means a GPU, so the CPU provider in it computes only for those who ask for it by name.

    Raises:
        MissingExtraError: no engine is installed.
        UsageError: the GPU wheel is all there is.
    """
    installed = installed_engines()
    if not installed:
        raise MissingExtraError("no inference engine is installed; run: pip install cls-export[cpu]")
    if is_installed("onnxruntime-gpu") and not is_installed("onnxruntime"):
        installed = tuple(name for name in installed if name != "onnxruntime")
    if not installed:
        raise UsageError(
            "engine auto takes neither a GPU nor the CPU in its place, and onnxruntime-gpu is the only engine installed; name "
            "engine='cuda', or engine='onnxruntime' for the CPU, or run: pip uninstall -y onnxruntime-gpu && pip install cls-export[cpu]"
        )
    return installed


def auto_engines(manifest: Manifest, variant: str) -> tuple[str, ...]:
    """The engines of `automatic_engines` that compute `variant` of the bundle; all of them for `auto`.

    Raises:
        MissingExtraError: none is installed, or none but the native one, whose weights the bundle lacks.
        UsageError: none of those installed computes the variant, or the GPU wheel is all there is.
    """
    installed = automatic_engines()
    if installed == (NATIVE,) and not _has_native_weights(manifest):
        raise MissingExtraError(
            "the bundle has no weights for engine native, and no other engine is installed; run: pip install cls-export[cpu]"
        )
    if variant == "auto":
        return installed
    entry = manifest.variants.get(graph_variant(variant))
    able = [name for name in installed if variant in ENGINES[name].by_name and (entry is None or is_for(entry, name))]
    if not able:
        kinds = [name for name, kind in ENGINES.items() if variant in kind.by_name and (entry is None or is_for(entry, name))]
        by_auto = [name for name in kinds if name in CPU_ENGINES]
        instead = f"run: pip install cls-export[{ENGINES[by_auto[0]].extra if by_auto else 'cpu'}]"
        if kinds and not by_auto:
            instead = f"name engine='{kinds[0]}'"
        wanted = ", ".join(kinds) or _NO_ENGINE
        raise UsageError(f"variant {variant} is for {wanted}, not for {', '.join(installed)}; choose another variant, or {instead}")
    return tuple(able)


def is_for(entry: Variant, engine: str) -> bool:
    """Whether a variant is for an engine; the native one needs weights of its own."""
    return engine in entry.engines and (engine != NATIVE or bool(entry.engine_files.get(engine)))


def _has_native_weights(manifest: Manifest) -> bool:
    return any(is_for(entry, NATIVE) for entry in manifest.variants.values())


def graph_variant(variant: str) -> str:
    """The bundle's variant whose file holds the graph: bf16 and tf32 are the fp32 file."""
    return _MADE_OF.get(variant, variant)


def require_engine(engine: str) -> None:
    """Checks that an engine is installed.

    Raises:
        MissingExtraError: it is not; the message names the pip command.
    """
    if not is_importable(ENGINES[engine].package):
        raise MissingExtraError(f"engine {engine} needs {ENGINES[engine].package}; run: pip install cls-export[{ENGINES[engine].extra}]")


def auto_objection(manifest: Manifest, engine: str, variant: str) -> str | None:
    """Why `auto` does not take `variant` on `engine`; None where it may."""
    if variant not in manifest.variants:
        return "not in the bundle"
    entry = manifest.variants[variant]
    if variant not in ENGINES[engine].variants or not is_for(entry, engine):
        return f"not for {engine}"
    features = cpu_features() or frozenset()
    missing = [feature for feature in entry.cpu_features if feature not in features]
    if missing and engine != NATIVE:  # what the graph assumes
        return f"needs {', '.join(missing)}, which this CPU is not known to have"
    return next(iter(recorded_shortfalls(variant, entry, engine=engine)), None)


def _choose_variant(manifest: Manifest, engines: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """The fastest variant that one of `engines` may take, and why others were passed over."""
    passed_over: list[str] = []
    for variant in ENGINES[engines[0]].variants:
        objections = [auto_objection(manifest, engine, variant) for engine in engines]
        if None in objections:
            return variant, tuple(passed_over)
        passed_over.append(f"variant {variant}: passed over, {objections[0]}")
    if tuple(engines) == (NATIVE,) and not _has_native_weights(manifest):
        raise BundleError(
            "the bundle has no weights for engine native: choose another engine (pip install cls-export[cpu]), or export it again"
        )
    held = ", ".join(manifest.variants) or "none"
    raise BundleError(f"no variant for {', '.join(engines)} ({'; '.join(passed_over)}); the bundle has {held}, name one with variant=...")


def _check_variant(manifest: Manifest, engine: str, variant: str) -> None:
    stored = graph_variant(variant)
    if stored not in manifest.variants:
        raise UsageError(
            f"the bundle has no variant {stored!r}, it has {', '.join(manifest.variants) or 'none'}; export it with --{stored}"
        )
    entry = manifest.variants[stored]
    able = [name for name in ENGINES if is_for(entry, name) and variant in ENGINES[name].by_name]
    if engine not in able:
        instead = "choose another engine or variant"
        if engine == NATIVE and variant in ENGINES[NATIVE].by_name:
            instead = "the bundle has no native weights of it: choose another engine (pip install cls-export[cpu]), or export it again"
        raise UsageError(f"variant {variant} is for {', '.join(able) or _NO_ENGINE}, not for {engine}; {instead}")
    if engine == NATIVE:
        return  # its kernels fit the CPU, whatever the graph assumes
    features = cpu_features()
    if features is not None and (missing := [feature for feature in entry.cpu_features if feature not in features]):
        raise EngineError(f"variant {variant} needs a CPU with {', '.join(missing)}, which this one lacks; use another variant")
    if variant == "bf16" and features is not None and not features & BF16_FEATURES:
        raise EngineError(
            "variant bf16 needs a CPU that computes bf16 (avx512_bf16 or amx_bf16 on x86, bf16 on ARM), which this one lacks; "
            "use fp32 or int8"
        )
