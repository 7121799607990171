"""What `verify` checks on this machine: every variant of a bundle on every engine that is installed, or those that were named."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cls_runtime.bundle.manifest import BundleFile, Manifest
from cls_runtime.bundle.named_files import files_of
from cls_runtime.bundle.parity import THRESHOLDS
from cls_runtime.engines.choice import CPU_ENGINES, ENGINES, check_engine, choose, graph_variant, installed_engines, is_for, require_engine
from cls_runtime.engines.needed_files import companions, golden_files, graph_files
from cls_runtime.engines.preference import NATIVE
from cls_runtime.errors import BundleError, EngineError, MissingExtraError, UsageError


@dataclass(frozen=True, kw_only=True)
class Combination:
    """A variant on an engine. `objection` says why it cannot be checked here; None where it can."""

    variant: str
    engine: str
    objection: str | None = None


def combinations(
    manifest: Manifest, *, variants: Sequence[str] | None = None, engines: Sequence[str] | None = None
) -> tuple[Combination, ...]:
    """Every combination to check, those of a variant together.

    Args:
        manifest: the bundle's.
        variants: which to take; None for all of the bundle, and for those that an engine makes from another variant's file. `auto` is the
            one that `Encoder.load` would take.
        engines: which to take; None for all that are installed, the native one for the variants that it has weights of. `auto` is the one
            that `Encoder.load` would take. Of None a form that is for a GPU is a combination with an objection.

    Raises:
        UsageError: a variant that the bundle does not have, or an engine that nobody knows.
        MissingExtraError: no engine is installed, or not one that was named.
        BundleError: a variant that this version does not know.
    """
    taken = _engines(engines)
    planned: dict[tuple[str, str], Combination] = {}
    for engine in taken:
        for variant in _variants(manifest, engine) if variants is None else variants:
            if engines is None and len(taken) > 1 and engine == NATIVE and not _is_native(manifest, variant):
                continue  # it was not asked for, and an export need not write its weights
            combination = _combination(manifest, variant, engine)
            planned[combination.variant, combination.engine] = combination
    if engines is None:
        planned |= {(form.variant, form.engine): form for form in _forms_of_gpus(manifest, variants)}
    for name, _ in planned:
        if name not in THRESHOLDS:
            raise BundleError(f"the bundle has a variant {name!r}, expected {', '.join(THRESHOLDS)}; upgrade cls-export")
        if graph_variant(name) not in manifest.variants:
            raise UsageError(f"the bundle has no variant {name!r}, it has {', '.join(manifest.variants)}")
    names = list(dict.fromkeys(name for name, _ in planned))
    return tuple(sorted(planned.values(), key=lambda item: names.index(item.variant)))


def verified_files(manifest: Manifest, *, planned: Sequence[Combination] | None) -> Iterator[BundleFile]:
    """What has to be here to check these combinations; None for the whole bundle."""
    if planned is None:
        yield from files_of(manifest)
        return
    yield from (*companions(manifest), *golden_files(manifest))
    for combination in planned:
        if combination.objection is None:
            yield from graph_files(manifest, variant=combination.variant, engine=combination.engine)


def _is_native(manifest: Manifest, variant: str) -> bool:
    """Whether the bundle has native weights of a variant; of `auto`, of any."""
    return any(is_for(entry, NATIVE) for name, entry in manifest.variants.items() if variant in ("auto", name))


def _engines(named: Sequence[str] | None) -> tuple[str, ...]:
    if named is None or "auto" in named:
        installed = installed_engines()
        if not installed:
            raise MissingExtraError("no inference engine is installed; run: pip install cls-export[cpu]")
        return installed if named is None else tuple(named)
    for engine in named:
        check_engine(engine)
        require_engine(engine)
    return tuple(named)


def _variants(manifest: Manifest, engine: str) -> list[str]:
    """The bundle's variants, and those that a named engine makes itself, such as bf16 from the fp32 file, whatever this CPU can."""
    made = ENGINES[engine].by_name if engine in ENGINES else ()
    return [*manifest.variants, *(name for name in made if name not in manifest.variants and graph_variant(name) in manifest.variants)]


def _forms_of_gpus(manifest: Manifest, variants: Sequence[str] | None) -> Iterator[Combination]:
    """What is not checked unless its engine is named: forms of a variant that no CPU runs. Their files are checked with the others."""
    for variant, entry in manifest.variants.items():
        for engine, files in entry.engine_files.items():
            if engine in ENGINES and engine not in CPU_ENGINES and (variants is None or variant in variants):
                objection = f"{files[0].path} is {variant} for a GPU, compared with PyTorch at export; run it here with --engine {engine}"
                yield Combination(variant=variant, engine=engine, objection=objection)


def _combination(manifest: Manifest, variant: str, engine: str) -> Combination:
    try:
        choice = choose(manifest, engine=engine, variant=variant)
        return Combination(variant=choice.variant, engine=choice.engine)
    except (UsageError, EngineError) as error:
        return Combination(variant=variant, engine=engine, objection=str(error))
