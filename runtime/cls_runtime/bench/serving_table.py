"""The table of `cls-bench --serve`: a row for each rate, and the figures to compare them with."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from cls_runtime.bench.figures import PERCENTILES
from cls_runtime.bench.results import BenchResults
from cls_runtime.bench.serving_results import RateRecord, ServingRecord
from cls_runtime.bench.table import UNKNOWN, Table, digits


def serving(results: BenchResults) -> Table:
    """A server under load, by rate."""
    first = next(iter(results.serving), None)
    threads, cpus, callers = (first.threads, first.cpus, first.callers) if first else (0, "", 0)
    return Table(
        key="serving",
        title="Serving",
        caption=(
            "cls-serve in its own process, one text per request, sent at random times (a Poisson process): milliseconds from when a "
            f"request was due to the end of its answer. Load is a share of the throughput of {callers} callers that each wait for their "
            f"answer. Engine threads: {threads}, also for encode and aencode without a server; {cpus}. The responder computes nothing: "
            "its rows show what the load generator and the sockets take."
        ),
        header=(
            *("variant and engine", "load", "requests/s", "answered/s", "p50 ms", "p95 ms", "p99 ms", "refused/s", "refused p99 ms"),
            *("failed", "sent late, p99 ms", "generator CPU"),
        ),
        rows=tuple(row for record in results.serving for row in _rows(record)),
        label_columns=2,
    )


def _rows(record: ServingRecord) -> Iterator[tuple[str, ...]]:
    side, blank = record.side, (UNKNOWN,) * 5
    alone = (UNKNOWN, f"{1 / np.mean(record.encode_s):,.0f}", *_percentiles(record.encode_s))
    yield (side, "encode, no server", *alone, *blank)
    merged = (UNKNOWN, f"{record.aencode_per_second:,.0f}", *(UNKNOWN,) * 3)
    yield (side, f"aencode, {record.callers} callers, no server", *merged, *blank)
    yield (side, f"cls-serve, {record.callers} callers", UNKNOWN, f"{record.capacity:,.0f}", *(UNKNOWN,) * 3, *blank)
    for rate in record.rates:
        yield (side, f"cls-serve, {rate.share:.0%}", *_rate(rate))
    yield (side, f"responder, {record.callers} callers", UNKNOWN, f"{record.trivial_capacity:,.0f}", *(UNKNOWN,) * 3, *blank)
    yield (side, "responder", *_rate(record.trivial))


def _rate(rate: RateRecord) -> tuple[str, ...]:
    refused = f"{np.percentile(rate.refused_s, 99) * 1e3:.1f}" if rate.refused_s else UNKNOWN
    return (
        f"{rate.rate:,.0f}",
        f"{rate.goodput:,.0f}",
        *_percentiles(rate.answered_s),
        f"{len(rate.refused_s) / rate.seconds:,.0f}",
        refused,
        str(rate.failed),
        digits(rate.late_p99_s * 1e3),
        f"{rate.generator_cpu:.0%}",
    )


def _percentiles(seconds: Sequence[float]) -> list[str]:
    if not seconds:
        return [UNKNOWN] * len(PERCENTILES)
    return [digits(float(value) * 1e3) for value in np.percentile(seconds, PERCENTILES)]
