"""The tables of what was varied: a row for each side, a column for each value."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cls_runtime.bench.figures import BASELINE_BATCH, arrival_batches, measured_sides, padding_share, texts_per_second, timings
from cls_runtime.bench.results import BenchResults, Kind, Timing
from cls_runtime.bench.table import UNKNOWN, Table, bound_ratio, digits
from cls_runtime.encoding.batching import plan_batches
from cls_runtime.engines.onnxruntime import BATCHING

PADDING_BUDGETS = (256, 1024, 4096)


def length(results: BenchResults) -> Table:
    """Time per text, by its length."""
    return _sweep(
        results,
        "length",
        title="Time by length",
        caption="Milliseconds per text, by its length in tokens: the model alone, no padding. In brackets: the ratio to the compute bound.",
        header=lambda at: f"{at} tokens",
        cell=lambda item: f"{digits(statistics.median(item.seconds) / item.texts * 1e3)} ({bound_ratio(results, item)})",
    )


def call_size(results: BenchResults) -> Table:
    """Time per call, by its texts."""
    return _sweep(
        results,
        "call_size",
        title="Time by texts per call",
        caption="Milliseconds per call of encode, one call at a time. In brackets: the ratio to the compute bound.",
        header=lambda at: "1 text" if at == 1 else f"{at} texts",
        cell=lambda item: f"{digits(statistics.median(item.seconds) * 1e3)} ({bound_ratio(results, item)})",
    )


def threads(results: BenchResults) -> Table:
    """Texts a second, by threads."""
    return _sweep(
        results,
        "threads",
        title="Throughput by threads",
        caption="Texts/s from text to vector. In brackets: the ratio to the compute bound of that number of threads.",
        header=lambda at: "1 thread" if at == 1 else f"{at} threads",
        cell=lambda item: f"{texts_per_second(item).median:,.0f} ({bound_ratio(results, item)})",
    )


def token_budget(results: BenchResults) -> Table:
    """Texts a second, by the tokens of a batch."""
    tokens = next((round(item.tokens / item.texts) for item in timings(results, "token_budget")), 0)
    return _sweep(
        results,
        "token_budget",
        title="Throughput by token budget",
        caption=(
            f"Texts/s at {tokens} tokens per text, the model alone, by the maximum tokens per batch (default: "
            f"{results.settings.token_budget:,}). In brackets: the ratio to the compute bound."
        ),
        header=lambda at: f"{at:,} tokens",
        cell=lambda item: f"{texts_per_second(item).median:,.0f} ({bound_ratio(results, item)})",
    )


def padding(results: BenchResults) -> Table:
    """Padding tokens: in the batches that the runtime makes of these texts, and in batches in the order of arrival."""
    counts = results.texts.token_counts
    rows = []
    for budget in sorted({results.settings.token_budget, *PADDING_BUDGETS}):
        planned = plan_batches(counts, replace(BATCHING, token_budget=budget))
        batches = [[counts[index] for index in batch.indices] for batch in planned]
        rows.append((f"sorted by length, at most {budget:,} tokens", *_padding(batches)))
    rows.append((f"in order of arrival, {BASELINE_BATCH} texts", *_padding(arrival_batches(counts))))
    return Table(
        key="padding",
        title="Padding",
        caption=f"Padding tokens in batches of these texts. The default is sorted by length, {results.settings.token_budget:,} tokens.",
        header=("batches", "texts per batch", "tokens", "padding tokens", "share of padding"),
        rows=tuple(rows),
    )


def _sweep(
    results: BenchResults, kind: Kind, *, title: str, caption: str, header: Callable[[int], str], cell: Callable[[Timing], str]
) -> Table:
    """A row for each side, a column for each value that was varied."""
    values = sorted({item.at for item in results.timings if item.kind == kind and item.at is not None})
    rows: list[tuple[str, ...]] = []
    for side in measured_sides(results):
        cells = {item.at: cell(item) for item in timings(results, kind, side)}
        if cells:
            rows.append((side, *(cells.get(value, UNKNOWN) for value in values)))
    return Table(
        key=kind, title=title, caption=caption, header=("variant and engine", *(header(value) for value in values)), rows=tuple(rows)
    )


def _padding(batches: Sequence[Sequence[int]]) -> Iterator[str]:
    share = padding_share(batches)
    tokens = sum(map(sum, batches))
    yield f"{sum(map(len, batches)) / len(batches):.1f}"
    yield f"{tokens:,}"
    yield f"{round(tokens * share / (1 - share)):,}"
    yield f"{share:.1%}"
