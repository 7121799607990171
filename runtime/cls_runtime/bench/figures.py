"""What the samples say: medians and their spread, rates, percentiles, ratios of rounds, and the compute bound of each of them.

The compute bound of a time is what the graph's multiply-adds alone take at the highest rate measured here for their arithmetic, whichever
engine reached it. Everything else that a text costs (tokenizing, softmax, LayerNorm, GELU, memory, threads that wait) lies above it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from cls_runtime.bench.results import BenchResults, Kind, Latency, MatrixRate, Timing
from cls_runtime.bench.spread import Spread, spread, times_as_fast

PERCENTILES = (50, 95, 99)
BASELINE_BATCH = 32  # texts a batch of the usual loop, in the order of arrival


def timings(results: BenchResults, kind: Kind, side: str | None = None) -> list[Timing]:
    """The timings of one kind, of one side or of all, in the order of `at`."""
    of_kind = [item for item in results.timings if item.kind == kind and side in (None, item.side)]
    return sorted(of_kind, key=lambda item: item.at or 0)


def measured_sides(results: BenchResults) -> list[str]:
    """The names of the sides that were measured, in order."""
    return [side.name for side in results.sides if side.failed is None]


def texts_per_second(timing: Timing) -> Spread:
    """Texts a second: median, lowest and highest of the rounds."""
    return spread(timing.texts / seconds for seconds in timing.seconds)


def padding_share(batches: Sequence[Sequence[int]]) -> float:
    """The share of the computed tokens that is padding, in batches of texts of these lengths in tokens."""
    computed = sum(max(batch) * len(batch) for batch in batches)
    return 1 - sum(map(sum, batches)) / computed


def arrival_batches(token_counts: Sequence[int]) -> list[Sequence[int]]:
    """Batches of 32 texts in the order of arrival, as the usual loop makes them."""
    return [token_counts[start : start + BASELINE_BATCH] for start in range(0, len(token_counts), BASELINE_BATCH)]


def ratio(ours: Timing, theirs: Timing) -> Spread:
    """How many times as fast `ours` is: of each round, in which both had their turn."""
    return spread(times_as_fast(ours.seconds, theirs.seconds))


def rate(item: MatrixRate) -> float:
    """Multiply-adds a second in the fastest sample: what else runs on the machine slows kernels down, and nothing speeds them up."""
    return item.multiply_adds / min(item.seconds)


def machine_rates(results: BenchResults, threads: int) -> dict[str, MatrixRate]:
    """By arithmetic, the highest rate that an engine reached with so many threads."""
    best: dict[str, MatrixRate] = {}
    for item in results.rates:
        if item.threads == threads and (item.arithmetic not in best or rate(item) > rate(best[item.arithmetic])):
            best[item.arithmetic] = item
    return best


def bound_seconds(results: BenchResults, multiply_adds: Mapping[str, int], *, threads: int) -> float | None:
    """What these multiply-adds alone take on so many threads; None where they, or the machine's rate for one arithmetic, are unknown."""
    best = machine_rates(results, threads)
    if not multiply_adds or not set(multiply_adds) <= set(best):
        return None
    return sum(count / rate(best[arithmetic]) for arithmetic, count in multiply_adds.items())


def timing_bound(results: BenchResults, timing: Timing) -> float | None:
    """The seconds that a round's multiply-adds alone take. A batch is computed by one thread, so one batch has the bound of one thread."""
    needed = min(timing.threads, timing.batches)
    threads = min((item.threads for item in results.rates if item.threads >= needed), default=timing.threads)
    return bound_seconds(results, timing.multiply_adds, threads=threads)


def latency_bound(results: BenchResults, item: Latency) -> float | None:
    """The seconds of a request that its multiply-adds alone take: on one thread, or those of all callers shared by all threads."""
    alone = bound_seconds(results, item.multiply_adds, threads=1)
    together = bound_seconds(results, item.multiply_adds, threads=item.threads)
    if alone is None or together is None:
        return None
    requests = len(item.seconds)
    return max(alone / requests, item.callers * together / requests)


def percentiles_ms(item: Latency) -> tuple[float, ...]:
    """p50, p95 and p99 of the requests, in milliseconds."""
    return tuple(float(value) * 1e3 for value in np.percentile(item.seconds, PERCENTILES))
