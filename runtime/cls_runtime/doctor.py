"""Looks at this machine and this Python: what is installed, which engines work, what `auto` would take, and how to fix what is broken.

Packages are asked for their version, not imported; engines are really loaded, because an installed engine need not work.
"""

from __future__ import annotations

import os
import platform
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime.encoder import Encoder
from cls_runtime.engines.choice import CPU_ENGINES, ENGINES, automatic_engines, engine_module
from cls_runtime.engines.cpu import available_cpus, cgroup_cpu_quota, cpu_features, telling
from cls_runtime.engines.cuda.checkup import Checkup, check_up
from cls_runtime.engines.installed import installed_version, is_importable
from cls_runtime.engines.native.library import kernels
from cls_runtime.engines.native.probe import probe as native_probe
from cls_runtime.engines.preference import NATIVE, preferred_engine
from cls_runtime.engines.probe_graph import probe
from cls_runtime.errors import ClsError, UsageError

# What brings what, by distribution name: the extras of pyproject.toml, "" for what every install has.
PACKAGES: dict[str, str] = {
    "numpy": "",
    "tokenizers": "",
    "onnxruntime": "cpu",
    "onnxruntime-gpu": "gpu",
    "openvino": "openvino",
    "cls-export-native": "native",
    "torch": "export",
    "transformers": "export",
    "onnx": "export",
    "onnx-ir": "export",
    "onnxscript": "export",
    "huggingface-hub": "hub",
    "pyarrow": "jobs",
    "ray": "ray",
    "matplotlib": "bench",
}


@dataclass(frozen=True, kw_only=True)
class Package:
    """A distribution: its version, None where it is not installed, and the extra of cls-export that brings it (`` for the base)."""

    name: str
    version: str | None
    extra: str


@dataclass(frozen=True, kw_only=True)
class EngineStatus:
    """Whether an engine loaded and ran a model just now; `detail` names its providers, or says what is wrong and how to fix it."""

    name: str
    works: bool
    detail: str


@dataclass(frozen=True, kw_only=True)
class BundleStatus:
    """What loading a bundle gave: the choice and its reasons, the seconds to the first vector, or the error.

    With `auto`; where that takes no engine, with one that works.
    """

    path: Path
    usable: bool
    detail: str
    engine: str | None = None
    variant: str | None = None
    reasons: tuple[str, ...] = ()
    seconds_to_first_vector: float | None = None


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What was found.

    Attributes:
        python, system: versions in words.
        cpu_features: those that matter for the speed of matrix products; None where the system does not tell.
        host_cpus: the CPUs of the machine.
        usable_cpus: how many of them this process may keep busy; the default number of threads.
        cpu_quota: the container's limit in CPUs, None without one.
        packages: what is installed.
        engines: each engine of this version, tried.
        gpu: the driver, the GPUs and what computes on them; None without a driver or a GPU.
        auto: which engine `auto` takes and why, or that there is none.
        bundle: the bundle that was asked about, tried.
        warnings: what works but is wrong.
        problems: what does not work, each with how to fix it.
    """

    python: str
    system: str
    cpu_features: tuple[str, ...] | None
    host_cpus: int
    usable_cpus: int
    cpu_quota: float | None
    packages: tuple[Package, ...]
    engines: tuple[EngineStatus, ...]
    gpu: Checkup | None
    auto: str
    bundle: BundleStatus | None
    warnings: tuple[str, ...]
    problems: tuple[str, ...]


def diagnose(bundle: str | Path | None = None, *, follow_links: bool = False) -> Diagnosis:
    """Looks at the machine, and at `bundle` where one is given. What does not work is in the result, not an exception.

    With `follow_links` the bundle's files are read wherever links in its folder lead.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        engines = tuple(try_engine(name) for name in ENGINES)
        gpu = check_up()
        status = None if bundle is None else try_bundle(bundle, engine=_engine_to_try(engines), follow_links=follow_links)
    features = cpu_features()
    return Diagnosis(
        python=f"{platform.python_implementation()} {platform.python_version()}",
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        cpu_features=None if features is None else telling(features),
        host_cpus=os.cpu_count() or 1,
        usable_cpus=available_cpus(),
        cpu_quota=cgroup_cpu_quota(),
        packages=tuple(Package(name=name, version=installed_version(name), extra=extra) for name, extra in PACKAGES.items()),
        engines=engines,
        gpu=gpu,
        auto=_auto(),
        bundle=status,
        warnings=tuple(dict.fromkeys([*(str(item.message) for item in caught), *_slow(gpu), *_differing()])),
        problems=tuple(_problems(engines, status)),
    )


def try_engine(name: str) -> EngineStatus:
    """Loads a tiny model in the engine and runs it."""
    if name == NATIVE:
        try:
            return EngineStatus(name=name, works=True, detail=native_probe())
        except ClsError as error:
            return EngineStatus(name=name, works=False, detail=str(error))
    try:
        providers = probe(engine_module(name))
    except ClsError as error:
        return EngineStatus(name=name, works=False, detail=str(error))
    return EngineStatus(name=name, works=True, detail=", ".join(providers))


def try_bundle(name: str | Path, *, engine: str = "auto", follow_links: bool = False) -> BundleStatus:
    """Loads a bundle on `engine`, hashes included, and encodes one text."""
    start = time.perf_counter()
    try:
        with Encoder.load(name, engine=engine, check_hashes=True, follow_links=follow_links) as encoder:
            encoder.encode(["a text"])
            info = encoder.info
            source = encoder.manifest.source.name
    except ClsError as error:
        return BundleStatus(path=Path(name), usable=False, detail=str(error))
    return BundleStatus(
        path=Path(name),
        usable=True,
        detail=f"{source}, {info.variant} on {info.engine} with {info.threads} threads",
        engine=info.engine,
        variant=info.variant,
        reasons=info.reasons,
        seconds_to_first_vector=time.perf_counter() - start,
    )


def _engine_to_try(engines: Iterable[EngineStatus]) -> str:
    """`auto`; where it takes none, an engine that works and has to be asked for by name, a GPU before the CPU provider of its wheel."""
    try:
        automatic_engines()
    except UsageError:
        working = [engine.name for engine in engines if engine.works]
        return next((name for name in ("cuda", "onnxruntime") if name in working), "auto")
    except ClsError:
        return "auto"
    return "auto"


def _auto() -> str:
    """What `engine="auto"` and `variant="auto"` mean here."""
    try:
        installed = automatic_engines()
    except ClsError as error:
        return f"none: {error}"
    if NATIVE not in installed:
        return _preferred(installed)
    others = tuple(name for name in installed if name != NATIVE)
    without = _preferred(others) if others else "none: run: pip install cls-export[cpu]"
    return f"{_preferred(installed)}; without native weights in the bundle: {without}"


def _preferred(engines: Sequence[str]) -> str:
    """What is taken among engines that all compute what a bundle has, and why."""
    chosen = {variant: preferred_engine(engines, variant) for variant in ENGINES[engines[0]].variants}
    preferred = ", then ".join(f"{variant} on {engine}" for variant, (engine, _) in chosen.items())
    reasons = "; ".join(dict.fromkeys(reason for _, reason in chosen.values()))
    return f"{preferred}: the first that the bundle contains and that passed its checks ({reasons})"


def _slow(gpu: Checkup | None) -> Iterable[str]:
    """That attention is computed by another kernel than the fast one. What keeps it from running at all is the engine's own line."""
    if gpu is not None and gpu.attention is not None and gpu.problem is not None:
        yield f"engine cuda: {gpu.problem}"


def _differing() -> Iterable[str]:
    """The kernels of the native engine that do not compute on this CPU what they should."""
    try:
        found = kernels()
    except ClsError:
        return
    yield from (f"engine {NATIVE}: the kernels {line}; they are not used, report it with this output" for line in found.differing)


def _problems(engines: Iterable[EngineStatus], bundle: BundleStatus | None) -> Iterable[str]:
    broken = [engine for engine in engines if not engine.works]
    if len(broken) == len(ENGINES):
        installed = [name for name in CPU_ENGINES if is_importable(ENGINES[name].package)] or ["onnxruntime"]
        yield from (f"{engine.name} does not work: {engine.detail}" for engine in broken if engine.name in installed)
    if bundle is not None and not bundle.usable:
        yield f"the bundle cannot be used: {bundle.detail}"
