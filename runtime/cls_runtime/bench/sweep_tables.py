"""The tables of what was varied: a row for each side, a column for each value."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator

from cls_runtime.bench.figures import measured_sides, padding_share, texts_per_second, timings, unsorted_padding_share
from cls_runtime.bench.results import BenchResults, Kind, Timing
from cls_runtime.bench.table import UNKNOWN, Table, digits, times_limit


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
    return _sweep(
        results,
        "token_budget",
        title="Throughput by batch budget",
        caption=f"Texts a second of the model alone, at most so many tokens in a batch; the default is {results.settings.token_budget}.",
        header=lambda at: f"{at:,} tokens",
        cell=lambda item: f"{texts_per_second(item).median:,.0f} ({times_limit(results, item)})",
    )


def padding(results: BenchResults) -> Table:
    """Tokens that were computed for nothing, by the tokens of a batch: the same for every side."""
    first = measured_sides(results)[:1]
    items = [item for name in first for item in timings(results, "token_budget", name)]
    whole = [item for name in first for item in timings(results, "text_to_vector", name)]
    rows = [(f"all texts, {results.settings.token_budget:,} tokens in a batch", *_padding(item)) for item in whole]
    rows += [(f"{item.texts} texts, {item.at:,} tokens in a batch", *_padding(item)) for item in items]
    naive = unsorted_padding_share(results.texts.token_counts)
    return Table(
        key="padding",
        title="Padding",
        caption=f"Padding is computed for nothing. Batches of 32 in the order of arrival would be {naive:.0%} padding.",
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


def _padding(item: Timing) -> Iterator[str]:
    yield f"{item.texts / item.batches:.1f}"
    yield f"{item.tokens:,}"
    yield f"{item.padding_tokens:,}"
    yield f"{padding_share(item):.1%}"
