"""`run_benchmark()`: a bundle becomes `BenchResults`. The whole benchmark is one list here; `steps.py` has what each step does."""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cls_runtime import __version__
from cls_runtime.bench import serve_step, steps
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.plan import Plan, PlannedSide, measured_files
from cls_runtime.bench.results import BenchResults, BundleFacts, Settings, TextFacts
from cls_runtime.bench.steps import Known
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.places import find_bundle
from cls_runtime.encoding.tokenizer import TextTokenizer
from cls_runtime.engines.onnxruntime import BATCHING
from cls_runtime.errors import UsageError


@dataclass(frozen=True)
class Step:
    """A step of a benchmark: what is announced before it, and what it makes of what is known."""

    words: str
    run: Callable[[Known], Known]


def benchmark_steps(plan: Plan) -> tuple[Step, ...]:
    """The whole benchmark, in order."""
    return (
        Step("matrix rates", steps.rates),
        Step("loading", steps.loading),
        Step("sizing the runs", steps.fitting),  # before everything whose amount it decides
        Step("parity", steps.parity),
        Step("throughput", steps.throughput),
        Step("text lengths", steps.lengths),
        Step("texts per call", steps.call_sizes),
        Step("token budgets", steps.token_budgets),
        *(
            Step(f"{callers} caller{'s' * (callers > 1)}", functools.partial(steps.latencies, callers=callers, requests=requests))
            for callers, requests in plan.callers
        ),
        Step("threads", steps.threads),
        Step("unloading", steps.unloading),  # before what has the machine to itself
        Step("matrix rates", steps.rates),
        Step("new processes", steps.new_processes),  # behind loading: the files are in the system's cache, for all sides alike
        *([Step("serving", serve_step.serving)] if plan.serve else []),
    )


def run_benchmark(
    bundle: str | Path,
    *,
    texts: Sequence[str],
    origin: str,
    plan: Plan,
    sides: Sequence[PlannedSide],
    threads: int,
    step: Callable[[str], None] = lambda _: None,
) -> BenchResults:
    """Measures every side, step by step (`benchmark_steps`).

    Args:
        bundle: the bundle, as `Encoder.load` takes it.
        texts: at most `plan.texts` of them are used.
        origin: where the texts are from, for the record.
        plan: how much of everything.
        sides: which variants on which engines.
        threads: the budget of CPU threads.
        step: told in words what happens next.

    Raises:
        UsageError: no texts.
        BundleError: the bundle is missing, damaged or foreign.
        EngineError: no side can be loaded here, or an engine failed while it was measured.
        TextError: a text that is not valid Unicode.
    """
    began = time.perf_counter()
    opened_bundle = find_bundle(bundle).open(functools.partial(measured_files, sides=sides))
    if not texts:
        raise UsageError("there are no texts to measure with, expected at least one")
    tokenizer = TextTokenizer.from_bundle(opened_bundle)
    used = list(texts[: plan.texts])
    with contextlib.ExitStack() as opened:
        known = Known(
            bundle=opened_bundle,
            tokenizer=tokenizer,
            planned=sides,
            threads=threads,
            plan=plan,
            texts=used,
            tokenized=tokenizer.tokenize(used),
            opened=opened,
        )
        for item in benchmark_steps(plan):
            step(item.words)
            known = item.run(known)
    return _results(known, origin=origin, seconds=time.perf_counter() - began)


def _results(known: Known, *, origin: str, seconds: float) -> BenchResults:
    plan = known.plan
    return BenchResults(
        tool_version=__version__,
        created=dt.datetime.now(dt.timezone.utc).isoformat(timespec="seconds"),
        seconds=seconds,
        host=this_host(),
        bundle=_facts(known.bundle),
        texts=TextFacts(origin=origin, token_counts=tuple(known.lengths), truncated=int((known.tokenized.removed > 0).sum())),
        settings=Settings(
            threads=known.threads, rounds=plan.rounds, token_budget=plan.token_budget or BATCHING.token_budget, quick=plan.quick
        ),
        sides=known.sides,
        rates=known.rates,
        timings=known.timings,
        latencies=known.latencies,
        starts=known.starts,
        parity=known.parity,
        serving=known.serving,
        notes=known.notes,
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
