"""Whether results that come from a file may be those of a benchmark: tables and plots divide by what was measured, and look sides up."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cls_runtime.bundle.typed_json import shown

if TYPE_CHECKING:
    from cls_runtime.bench.results import BenchResults

LEAST, MOST = 1e-9, 1e18
_NAME = re.compile(r"[\w .:+-]{1,100}")  # of a side; what else it might hold, a plot takes for a formula


def objections(results: BenchResults) -> Iterator[str]:
    """What no benchmark finds: a record of a side that is not listed, no samples, and samples of nothing or of more than can be."""
    listed = {side.name for side in results.sides}
    for name in (*listed, *(side.name for side in (results.peers.sides if results.peers else ()))):
        if not _NAME.fullmatch(name):
            yield f"has a side {shown(name)}, which is no variant on an engine"
    for records in (results.timings, results.latencies, results.starts, results.parity, results.serving):
        for record in records:
            if record.side not in listed:
                yield f"has a record of {shown(record.side)}, which is not among its sides"
    for numbers in _measured(results):
        if not numbers or not all(LEAST <= number <= MOST for number in numbers):
            yield f"has the samples {shown(numbers)}, expected numbers from {LEAST:g} to {MOST:g}"
    for parity in results.parity:
        if not parity.cosines or not all(-1.01 <= cosine <= 1.01 for cosine in parity.cosines):
            yield f"has the cosines {shown(parity.cosines)}, expected numbers from -1 to 1"


def _measured(results: BenchResults) -> Iterator[tuple[float, ...]]:
    yield results.texts.token_counts
    yield (results.settings.threads,)
    for rate in results.rates:
        yield (*rate.seconds, rate.multiply_adds, rate.threads) if rate.seconds else ()
    for timing in results.timings:
        yield (*timing.seconds, timing.texts, timing.tokens, timing.batches, timing.threads) if timing.seconds else ()
    for latency in results.latencies:
        yield (*latency.seconds, latency.wall_seconds, latency.callers, latency.threads) if latency.seconds else ()
    for start in results.starts:
        yield from (start.seconds, start.import_seconds, start.load_seconds, start.peak_bytes)
    for served in results.serving:
        yield served.encode_s
        yield (served.threads, served.callers, served.capacity, served.aencode_per_second, served.trivial_capacity)
        for load in (*served.rates, served.trivial):
            yield (load.share, load.rate, load.seconds, *load.answered_s, *load.refused_s)
    if results.peers is not None:
        for ratio in results.peers.ratios:
            yield (ratio.median, ratio.low, ratio.high)
        for side in results.peers.sides:
            if side.failed is None:
                yield side.seconds
