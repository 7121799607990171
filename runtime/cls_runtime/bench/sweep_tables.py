"""The tables of what was varied: a row for each side, a column for each value."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cls_runtime.bench.figures import BASELINE_BATCH, arrival_batches, measured_sides, padding_share, texts_per_second, timings
from cls_runtime.bench.results import BenchResults, Kind, Timing
from cls_runtime.bench.table import UNKNOWN, Table, digits, times_limit
from cls_runtime.encoding.batching import plan_batches
from cls_runtime.engines.onnxruntime import BATCHING

PADDING_BUDGETS = (256, 1024, 4096)


def length(results: BenchResults) -> Table:
    """What a text costs, by its length."""
    return _sweep(
        results,
        "length",
        title="Cost by length",
        caption="Milliseconds of a text of so many tokens, the model alone, without padding; in brackets, times the limit.",
        header=lambda at: f"{at} tokens",
        cell=lambda item: f"{digits(statistics.median(item.seconds) / item.texts * 1e3)} ({times_limit(results, item)})",
    )


def call_size(results: BenchResults) -> Table:
    """What a call costs, by its texts."""
    return _sweep(
        results,
        "call_size",
        title="Cost by texts in a call",
        caption="Milliseconds of one call of encode with so many texts, nothing else running; in brackets, times the limit.",
        header=lambda at: "1 text" if at == 1 else f"{at} texts",
        cell=lambda item: f"{digits(statistics.median(item.seconds) * 1e3)} ({times_limit(results, item)})",
    )


def threads(results: BenchResults) -> Table:
    """Texts a second, by threads."""
    return _sweep(
        results,
        "threads",
        title="Throughput by threads",
        caption="Texts a second from text to vector; in brackets, times the limit of so many threads.",
        header=lambda at: "1 thread" if at == 1 else f"{at} threads",
        cell=lambda item: f"{texts_per_second(item).median:,.0f} ({times_limit(results, item)})",
    )


def token_budget(results: BenchResults) -> Table:
    """Texts a second, by the tokens of a batch."""
    tokens = next((round(item.tokens / item.texts) for item in timings(results, "token_budget")), 0)
    return _sweep(
        results,
        "token_budget",
        title="Throughput by batch budget",
        caption=(
            f"Texts of {tokens} tokens a second, the model alone, with at most so many tokens in a batch (the default is "
            f"{results.settings.token_budget:,}); in brackets, times the limit."
        ),
        header=lambda at: f"{at:,} tokens",
        cell=lambda item: f"{texts_per_second(item).median:,.0f} ({times_limit(results, item)})",
    )


def padding(results: BenchResults) -> Table:
    """Tokens that are computed for nothing: the batches that the runtime makes of these texts, and those of the usual loop."""
    counts = results.texts.token_counts
    rows = []
    for budget in sorted({results.settings.token_budget, *PADDING_BUDGETS}):
        planned = plan_batches(counts, replace(BATCHING, token_budget=budget))
        batches = [[counts[index] for index in batch.indices] for batch in planned]
        rows.append((f"by length, at most {budget:,} tokens", *_padding(batches)))
    rows.append((f"in the order of arrival, {BASELINE_BATCH} texts", *_padding(arrival_batches(counts))))
    return Table(
        key="padding",
        title="Padding",
        caption=f"What batches of these texts compute for nothing. The default is by length, {results.settings.token_budget:,} tokens.",
        header=("batches", "texts a batch", "tokens", "padding", "of what is computed"),
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
