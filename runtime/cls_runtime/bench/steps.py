"""The steps of a benchmark: each takes what is known and gives what is known after it. `measure.py` has them in one list."""

from __future__ import annotations

import contextlib
import functools
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from cls_runtime.bench.latency import MODES, latency
from cls_runtime.bench.loaded import Loaded, loaded_sides
from cls_runtime.bench.matrix_rates import joined, matrix_rates
from cls_runtime.bench.plan import Plan, PlannedSide, fitted, thread_counts
from cls_runtime.bench.results import ColdStart, Kind, Latency, MatrixRate, Parity, SideFacts, Timing
from cls_runtime.bench.serving_results import ServingRecord
from cls_runtime.bench.starts import starts
from cls_runtime.bench.throughput import Job, batch_jobs, encoding_jobs, texts_of_length, timed, worker_pools
from cls_runtime.bench.turns import seconds_in_turns
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import cosines, parity_figures
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.choice import graph_variant
from cls_runtime.errors import BundleError, EngineError
from cls_runtime.verifying.vector_checks import as_computed


@dataclass(frozen=True, kw_only=True)
class Known:
    """What is known at one point of a benchmark.

    Attributes:
        bundle, tokenizer, planned, threads: what is measured: the bundle's sides, each with this budget of CPU threads.
        plan, texts, tokenized: how much of it. `fitting` makes it less where the slowest side needs that.
        opened: what `loading` opened. `unloading` closes it, and so does whoever runs the steps, where one of them fails.
        loaded: the sides that work here, between `loading` and `unloading`.
        sides, rates, timings, latencies, starts, parity, serving, notes: what the steps found out, as `BenchResults` has it.
    """

    bundle: Bundle
    tokenizer: TextTokenizer
    planned: Sequence[PlannedSide]
    threads: int
    plan: Plan
    texts: Sequence[str]
    tokenized: TokenizedTexts
    opened: contextlib.ExitStack
    loaded: Mapping[str, Loaded] = field(default_factory=dict)
    sides: tuple[SideFacts, ...] = ()
    rates: tuple[MatrixRate, ...] = ()
    timings: tuple[Timing, ...] = ()
    latencies: tuple[Latency, ...] = ()
    starts: tuple[ColdStart, ...] = ()
    parity: tuple[Parity, ...] = ()
    serving: tuple[ServingRecord, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text."""
        return [int(length) for length in self.tokenized.lengths]

    @property
    def usable(self) -> list[PlannedSide]:
        """The planned sides that work here, once `loading` has tried them."""
        working = {side.name for side in self.sides if side.failed is None}
        return [side for side in self.planned if side.name in working]


def rates(known: Known) -> Known:
    """How fast the machine multiplies matrices. Done twice, first and last: one of them is quieter, and the fastest sample counts."""
    engines = list(dict.fromkeys(side.engine for side in known.planned if side.objection is None))
    device = next((side.device for side in known.planned if side.device is not None), None)
    with tempfile.TemporaryDirectory(prefix="cls-bench-") as scratch:
        measured = matrix_rates(engines, Path(scratch), threads=thread_counts(known.threads), rounds=known.plan.rate_rounds, device=device)
    return replace(known, rates=joined(known.rates, measured))


def loading(known: Known) -> Known:
    """Loads every side that has no objection.

    Raises:
        EngineError: none works here.
    """
    loaded, failed = known.opened.enter_context(
        loaded_sides(known.bundle, known.planned, threads=known.threads, token_budget=known.plan.token_budget)
    )
    if not loaded:
        raise EngineError(f"nothing can be measured here: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
    sides = tuple(_facts(known.bundle, side, loaded.get(side.name), failed.get(side.name)) for side in known.planned)
    return replace(known, loaded=loaded, sides=sides)


def fitting(known: Known) -> Known:
    """As much less of everything as the slowest side needs, which a few of the texts show."""
    few = known.plan.least_texts
    encoding = {name: functools.partial(as_computed, side.encoder, known.texts[:few]) for name, side in known.loaded.items()}
    seconds = {name: taken for name, (taken,) in seconds_in_turns(encoding, rounds=1).items()}
    slowest = max(seconds, key=lambda name: seconds[name])
    plan = fitted(
        known.plan,
        seconds_per_token=seconds[slowest] / sum(known.lengths[:few]),
        mean_tokens=statistics.fmean(known.lengths),
        threads=known.threads,
    )
    notes = known.notes
    if plan.texts < len(known.texts):
        fewer = f"{plan.texts} of {len(known.texts)} texts per round"
        notes += (f"{fewer}, so that a round of {slowest} takes about {plan.round_seconds:g} s",)
    return replace(known, plan=plan, texts=known.texts[: plan.texts], tokenized=known.tokenized.first(plan.texts), notes=notes)


def parity(known: Known) -> Known:
    """Each side's vectors of the golden texts against PyTorch's. A bundle without them is still measured, and the report says so."""
    try:
        golden = read_golden(known.bundle.companion(GOLDEN_NAME))
        vectors = golden.vectors[known.bundle.manifest.sentence_output]
        held, expected = vectors.shape[1], known.bundle.manifest.width("sentence")
        if held != expected:
            raise BundleError(f"{GOLDEN_NAME} has vectors of {held} numbers, the bundle's have {expected}")
    except BundleError as error:
        return replace(known, notes=(*known.notes, f"no parity: {error}"))
    every = -(-len(golden.texts) // known.plan.parity_texts)
    reference, inputs = vectors[::every], golden.inputs[::every]
    by_side = {name: as_computed(side.encoder, inputs) for name, side in known.loaded.items()}
    return replace(
        known,
        parity=tuple(
            Parity(side=name, cosines=tuple(cosines(reference, rows).tolist()), figures=parity_figures(reference, rows))
            for name, rows in by_side.items()
        ),
    )


def throughput(known: Known) -> Known:
    """All texts, from text to vector and the model alone."""
    with worker_pools(known.loaded) as pools:
        jobs = encoding_jobs(known.loaded, known.texts, known.lengths)
        jobs += _batch_jobs(known, pools, known.tokenized, token_budget=known.plan.token_budget)
        return _timed(known, jobs, rounds=known.plan.rounds)


def lengths(known: Known) -> Known:
    """Texts of exactly so many tokens, the model alone: the planned lengths that the model takes, its maximum where none is."""
    plan, longest = known.plan, known.tokenizer.max_length
    jobs: list[Job] = []
    with worker_pools(known.loaded) as pools:
        for length in [length for length in plan.lengths if length <= longest] or [longest]:
            texts = texts_of_length(known.tokenized, length, max(1, plan.length_tokens // length) * known.threads)
            jobs += _batch_jobs(known, pools, texts, token_budget=plan.token_budget, kind="length", at=length)
        return _timed(known, jobs, rounds=plan.sweep_rounds)


def call_sizes(known: Known) -> Known:
    """So many texts in a call, from text to vector."""
    jobs: list[Job] = []
    for size in (size for size in known.plan.call_sizes if size <= len(known.texts)):
        jobs += encoding_jobs(known.loaded, known.texts[:size], known.lengths[:size], kind="call_size", at=size)
    return _timed(known, jobs, rounds=2 * known.plan.sweep_rounds)


def token_budgets(known: Known) -> Known:
    """So many tokens in a batch at most, the model alone.

    The texts have one length, so that a batch has just as many tokens as it may: of ragged ones many batches are smaller.
    """
    plan, length = known.plan, int(statistics.median_low(known.lengths))
    texts = texts_of_length(known.tokenized, length, max(1, max(plan.token_budgets) // length) * known.threads)
    jobs: list[Job] = []
    with worker_pools(known.loaded) as pools:
        for budget in plan.token_budgets:
            jobs += _batch_jobs(known, pools, texts, token_budget=budget, kind="token_budget", at=budget)
        return _timed(known, jobs, rounds=plan.sweep_rounds)


def latencies(known: Known, *, callers: int, requests: int) -> Known:
    """So many callers at once, in both ways to call."""
    measured = tuple(
        latency(side, known.texts, known.lengths, mode=mode, callers=callers, requests=requests)
        for mode in MODES
        for side in known.loaded.values()
    )
    return replace(known, latencies=known.latencies + measured)


def threads(known: Known) -> Known:
    """Fewer threads than the budget need sessions of their own; the budget's are there."""
    plan = known.plan
    jobs: list[Job] = []
    with contextlib.ExitStack() as stack:
        for count in thread_counts(known.threads):
            sides = known.loaded
            if count != known.threads:
                sides, _ = stack.enter_context(loaded_sides(known.bundle, known.usable, threads=count, token_budget=plan.token_budget))
            jobs += encoding_jobs(sides, known.texts[: plan.sweep_texts], known.lengths[: plan.sweep_texts], kind="threads", at=count)
        return _timed(known, jobs, rounds=plan.sweep_rounds)


def unloading(known: Known) -> Known:
    """Closes the sides: what comes after has the machine to itself."""
    known.opened.close()
    return replace(known, loaded={})


def new_processes(known: Known) -> Known:
    """How long a new process takes to its first vector, and the most memory that it holds."""
    started = starts(known.bundle.name, known.usable, known.texts, threads=known.threads, rounds=known.plan.starts)
    return replace(known, starts=started)


def _timed(known: Known, jobs: Sequence[Job], *, rounds: int) -> Known:
    return replace(known, timings=known.timings + timed(jobs, rounds=rounds))


def _batch_jobs(
    known: Known,
    pools: Mapping[str, ThreadPoolExecutor],
    tokenized: TokenizedTexts,
    *,
    token_budget: int | None,
    kind: Kind = "model_only",
    at: int | None = None,
) -> list[Job]:
    return batch_jobs(known.loaded, pools, tokenized, pad_id=known.tokenizer.pad_id, token_budget=token_budget, kind=kind, at=at)


def _facts(bundle: Bundle, side: PlannedSide, loaded: Loaded | None, failed: str | None) -> SideFacts:
    stored = bundle.manifest.variants.get(graph_variant(side.variant))
    return SideFacts(
        name=side.name,
        variant=side.variant,
        engine=side.engine,
        file_bytes=sum(file.size_bytes for file in stored.files) if stored else 0,
        workers=loaded.engine.workers if loaded else 0,
        providers=loaded.engine.providers if loaded else (),
        failed=failed,
    )
