"""`run_benchmark()`: a bundle becomes `BenchResults`. The order of the steps is here, each is a module of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from cls_runtime import __version__
from cls_runtime.bench.latency import MODES, latency
from cls_runtime.bench.loaded import Loaded, loaded_sides
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.matrix_rates import joined, matrix_rates
from cls_runtime.bench.plan import Plan, PlannedSide, fitted, thread_counts
from cls_runtime.bench.results import (
    BenchResults,
    BundleFacts,
    ColdStart,
    Latency,
    MatrixRate,
    Parity,
    Settings,
    SideFacts,
    TextFacts,
    Timing,
)
from cls_runtime.bench.starts import starts
from cls_runtime.bench.throughput import Job, batch_jobs, encoding_jobs, texts_of_length, timed, worker_pools
from cls_runtime.bench.turns import seconds_in_turns
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.golden import GOLDEN_NAME, read_golden
from cls_runtime.bundle.parity import compare, cosines
from cls_runtime.encoding.tokenizer import TextTokenizer, TokenizedText
from cls_runtime.engines.choice import graph_variant
from cls_runtime.errors import BundleError, EngineError, UsageError


@dataclass(kw_only=True)
class _Found:
    """What the steps found so far."""

    sides: tuple[SideFacts, ...] = ()
    rates: tuple[MatrixRate, ...] = ()
    timings: list[Timing] = field(default_factory=list)
    latencies: list[Latency] = field(default_factory=list)
    starts: tuple[ColdStart, ...] = ()
    parity: list[Parity] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What all steps read."""

    bundle: Bundle
    tokenizer: TextTokenizer
    texts: Sequence[str]
    tokenized: Sequence[TokenizedText]
    threads: int
    plan: Plan
    sides: Sequence[PlannedSide]
    step: Callable[[str], None]

    @property
    def lengths(self) -> list[int]:
        return [len(text) for text in self.tokenized]


def steps(plan: Plan) -> int:
    """How many steps `run_benchmark` announces."""
    return 10 + len(plan.callers)


def run_benchmark(
    folder: Path,
    *,
    texts: Sequence[str],
    origin: str,
    plan: Plan,
    sides: Sequence[PlannedSide],
    threads: int,
    step: Callable[[str], None] = lambda _: None,
) -> BenchResults:
    """Measures every side.

    Args:
        folder: the bundle's.
        texts: at most `plan.texts` of them are used.
        origin: where the texts are from, for the record.
        plan: how much of everything.
        sides: which variants on which engines.
        threads: the budget of CPU threads.
        step: told in words what happens next.

    Raises:
        UsageError: no texts, or no side that can be loaded here.
        BundleError: the bundle is missing, damaged or foreign.
        EngineError: an engine failed while it was measured.
        TextError: a text that is not valid Unicode.
    """
    began = time.perf_counter()
    bundle = Bundle.open(folder)
    if not texts:
        raise UsageError("there are no texts to measure with, expected at least one")
    tokenizer = TextTokenizer.from_bundle(bundle)
    used = list(texts[: plan.texts])
    tokenized = tokenizer.tokenize(used)
    task = _Task(bundle=bundle, tokenizer=tokenizer, texts=used, tokenized=tokenized, threads=threads, plan=plan, sides=sides, step=step)
    found = _Found()
    task = _measure(task, found)
    return BenchResults(
        tool_version=__version__,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        seconds=time.perf_counter() - began,
        host=this_host(),
        bundle=_facts(bundle),
        texts=TextFacts(origin=origin, token_counts=tuple(task.lengths), truncated=sum(text.removed > 0 for text in task.tokenized)),
        settings=Settings(threads=threads, rounds=plan.rounds, token_budget=plan.token_budget, quick=plan.quick),
        sides=found.sides,
        rates=found.rates,
        timings=tuple(found.timings),
        latencies=tuple(found.latencies),
        starts=found.starts,
        parity=tuple(found.parity),
        notes=tuple(found.notes),
    )


def _measure(task: _Task, found: _Found) -> _Task:
    """Does everything; gives the task that was done, whose plan and texts fit the slowest side."""
    found.rates = _rates(task)
    task.step("loading")
    budget = task.plan.token_budget
    with loaded_sides(task.bundle, task.sides, threads=task.threads, token_budget=budget) as (ready, failed):
        found.sides = tuple(_side(task.bundle, side, ready, failed) for side in task.sides)
        if not ready:
            raise EngineError(f"nothing can be measured here: {'; '.join(f'{name}: {why}' for name, why in failed.items())}")
        task = _fitted(task, ready, found)
        plan = task.plan
        task.step("parity")
        _parity(task, ready, found)
        with worker_pools(ready) as pools:
            task.step("throughput")
            jobs = encoding_jobs(ready, task.texts, task.lengths)
            jobs += batch_jobs(ready, pools, task.tokenized, pad_id=task.tokenizer.pad_id, token_budget=plan.token_budget)
            found.timings += timed(jobs, rounds=plan.rounds)
            _sweeps(task, ready, pools, found)
        for callers, requests in plan.callers:
            task.step(f"{callers} callers")
            for mode in MODES:
                for side in ready.values():
                    found.latencies.append(latency(side, task.texts, task.lengths, mode=mode, callers=callers, requests=requests))
        _threads(task, ready, found)
    usable = [side for side in task.sides if side.name in ready]
    found.rates = joined(found.rates, _rates(task))
    task.step("new processes")
    found.starts = starts(task.bundle.folder, usable, task.texts, threads=task.threads, rounds=plan.starts)
    return task


def _rates(task: _Task) -> tuple[MatrixRate, ...]:
    """Measured before everything else and after it: one of them is quieter, and the rate is the fastest sample's."""
    task.step("matrix rates")
    engines = list(dict.fromkeys(side.engine for side in task.sides if side.objection is None))
    with tempfile.TemporaryDirectory(prefix="cls-bench-") as scratch:
        return matrix_rates(engines, Path(scratch), threads=thread_counts(task.threads), rounds=task.plan.rate_rounds)


def _fitted(task: _Task, ready: Mapping[str, Loaded], found: _Found) -> _Task:
    """The task with as much less as the slowest side needs, which a few of the texts show."""
    few = task.plan.least_texts
    tokens = sum(task.lengths[:few])
    seconds = seconds_in_turns({name: functools.partial(side.encoder.encode, task.texts[:few]) for name, side in ready.items()}, rounds=1)
    slowest = max(seconds, key=lambda name: seconds[name])
    plan = fitted(
        task.plan,
        seconds_per_token=seconds[slowest][0] / tokens,
        mean_tokens=statistics.fmean(task.lengths),
        threads=task.threads,
    )
    if plan.texts < len(task.texts):
        found.notes.append(
            f"{plan.texts} of {len(task.texts)} texts in a round, so that {slowest} takes about {plan.round_seconds:g} s for one"
        )
    return dataclasses.replace(task, plan=plan, texts=task.texts[: plan.texts], tokenized=task.tokenized[: plan.texts])


def _sweeps(task: _Task, ready: dict[str, Loaded], pools: Mapping[str, ThreadPoolExecutor], found: _Found) -> None:
    plan, rounds, pad_id = task.plan, task.plan.sweep_rounds, task.tokenizer.pad_id
    task.step("lengths")
    jobs: list[Job] = []
    for length in _lengths(plan, task.tokenizer.max_length):
        texts = texts_of_length(task.tokenized, length, max(1, plan.length_tokens // length) * task.threads)
        jobs += batch_jobs(ready, pools, texts, pad_id=pad_id, token_budget=plan.token_budget, kind="length", at=length)
    found.timings += timed(jobs, rounds=rounds)
    task.step("texts in a call")
    jobs = []
    for size in (size for size in plan.call_sizes if size <= len(task.texts)):
        jobs += encoding_jobs(ready, task.texts[:size], task.lengths[:size], kind="call_size", at=size)
    found.timings += timed(jobs, rounds=2 * rounds)
    task.step("batch budgets")
    jobs = []
    # Texts of one length, so that a batch has just as many tokens as it may: of ragged ones many batches are smaller.
    length = int(statistics.median_low(task.lengths))
    texts = texts_of_length(task.tokenized, length, max(1, max(plan.token_budgets) // length) * task.threads)
    for budget in plan.token_budgets:
        jobs += batch_jobs(ready, pools, texts, pad_id=pad_id, token_budget=budget, kind="token_budget", at=budget)
    found.timings += timed(jobs, rounds=rounds)


def _threads(task: _Task, ready: dict[str, Loaded], found: _Found) -> None:
    """Fewer threads than the budget need sessions of their own; the budget's are there."""
    task.step("threads")
    texts, lengths = task.texts[: task.plan.sweep_texts], task.lengths[: task.plan.sweep_texts]
    usable = [side for side in task.sides if side.name in ready]
    with contextlib.ExitStack() as stack:
        jobs: list[Job] = []
        for count in thread_counts(task.threads):
            sides = ready
            if count != task.threads:
                sides, _ = stack.enter_context(loaded_sides(task.bundle, usable, threads=count, token_budget=task.plan.token_budget))
            jobs += encoding_jobs(sides, texts, lengths, kind="threads", at=count)
        found.timings += timed(jobs, rounds=task.plan.sweep_rounds)


def _parity(task: _Task, ready: dict[str, Loaded], found: _Found) -> None:
    """Each side's vectors of the golden texts against PyTorch's. A bundle without them is measured all the same, and the report says so."""
    try:
        golden = read_golden(task.bundle.folder / GOLDEN_NAME)
    except BundleError as error:
        found.notes.append(f"no parity: {error}")
        return
    every = -(-len(golden.texts) // task.plan.parity_texts)
    reference, inputs = golden.vectors["cls"][::every], golden.inputs[::every]
    for name, side in ready.items():
        vectors = side.encoder.encode(inputs)
        found.parity.append(Parity(side=name, cosines=tuple(cosines(reference, vectors).tolist()), figures=compare(reference, vectors)))


def _lengths(plan: Plan, max_length: int) -> list[int]:
    """The planned lengths that the model takes; its maximum where none is."""
    return [length for length in plan.lengths if length <= max_length] or [max_length]


def _side(bundle: Bundle, side: PlannedSide, ready: dict[str, Loaded], failed: dict[str, str]) -> SideFacts:
    stored = bundle.manifest.variants.get(graph_variant(side.variant))
    loaded = ready.get(side.name)
    return SideFacts(
        name=side.name,
        variant=side.variant,
        engine=side.engine,
        file_bytes=sum(file.size_bytes for file in stored.files) if stored else 0,
        workers=loaded.engine.workers if loaded else 0,
        providers=loaded.engine.providers if loaded else (),
        failed=failed.get(side.name),
    )


def _facts(bundle: Bundle) -> BundleFacts:
    manifest = bundle.manifest
    return BundleFacts(
        source=manifest.source.name,
        fingerprint=manifest.fingerprint,
        architecture=manifest.architecture,
        num_layers=manifest.num_layers,
        hidden_size=manifest.hidden_size,
        max_length=manifest.max_length,
        created=manifest.created,
    )
