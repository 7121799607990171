"""A variant on an engine, loaded for measuring: the Encoder that users call, and the engine alone, for ready batches."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from cls_runtime.bench.plan import PlannedSide
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import MultiplyAdds
from cls_runtime.encoder import Encoder
from cls_runtime.engines.base import Engine
from cls_runtime.engines.choice import CPU_ENGINES, engine_module, graph_variant
from cls_runtime.engines.devices import device_numbers
from cls_runtime.errors import EngineError


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """One side, ready. `formulas` are the graph's multiply-adds by the arithmetic that this side computes them in."""

    name: str
    encoder: Encoder
    engine: Engine
    formulas: Mapping[str, MultiplyAdds]

    @property
    def threads(self) -> int:
        """The budget of CPU threads."""
        return self.encoder.info.threads

    def multiply_adds(self, lengths: Sequence[int], *, batches: int) -> dict[str, int]:
        """Those of texts of these lengths in tokens, in `batches` runs, padding left out; empty where no formula is recorded."""
        return {
            arithmetic: batches * formula.per_run + sum(formula.count(1, length) - formula.per_run for length in lengths)
            for arithmetic, formula in self.formulas.items()
        }


@contextlib.contextmanager
def loaded_sides(
    bundle: Bundle, planned: Sequence[PlannedSide], *, threads: int, token_budget: int | None = None
) -> Iterator[tuple[dict[str, Loaded], dict[str, str]]]:
    """Loads every side that has no objection; gives them by name, and why others cannot be used here."""
    with contextlib.ExitStack() as stack:
        ready: dict[str, Loaded] = {}
        failed = {side.name: side.objection for side in planned if side.objection is not None}
        for side in planned:
            if side.objection is None:
                try:
                    ready[side.name] = stack.enter_context(_loaded(bundle, side, threads=threads, token_budget=token_budget))
                except EngineError as error:
                    failed[side.name] = str(error)
        yield ready, failed


@contextlib.contextmanager
def _loaded(bundle: Bundle, side: PlannedSide, *, threads: int, token_budget: int | None) -> Iterator[Loaded]:
    with Encoder.load(
        bundle.name,
        variant=side.variant,
        engine=side.engine,
        device=side.device,
        threads=threads,
        token_budget=token_budget,
        on_overflow="truncate",
        fingerprint=bundle.manifest.fingerprint,
    ) as encoder:
        devices = device_numbers(side.device, engine=side.engine)
        engine = engine_module(side.engine).load(bundle, variant=side.variant, threads=threads, devices=devices)
        try:
            yield Loaded(name=side.name, encoder=encoder, engine=engine, formulas=_formulas(bundle, side))
        finally:
            engine.close()


def _formulas(bundle: Bundle, side: PlannedSide) -> dict[str, MultiplyAdds]:
    """What the manifest calls fp32 is computed in bf16 or TF32 where asked for; a CPU computes an fp16 graph in fp32, a GPU in fp16."""
    recorded = bundle.manifest.variants[graph_variant(side.variant)].multiply_adds
    lower = side.variant in ("bf16", "tf32") or (side.variant == "fp16" and side.engine not in CPU_ENGINES)
    return {side.variant if arithmetic == "fp32" and lower else arithmetic: item for arithmetic, item in recorded.items()}
