"""What each plot shows.

A drawing gets an empty figure (matplotlib's Figure or SubFigure) and the results; matplotlib itself is not imported here.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from cls_runtime.bench.figures import latency_bound, measured_sides, percentiles_ms, texts_per_second, timing_bound, timings
from cls_runtime.bench.latency import MODES
from cls_runtime.bench.results import BenchResults, Kind, Timing
from cls_runtime.bench.spread import spread

# Colours that carry on white and on near black. INK, MUTED and GRID are replaced by the page's own where a plot is part of one.
INK, MUTED, GRID = "#24292f", "#6e7781", "#d0d7de"
COLORS = ("#3b82c4", "#e0793a", "#2f9e6e", "#9a6dd7", "#d1495b", "#8a7a3d", "#1f9bb0", "#b0578d")
# Where a cosine is 1 to the last digit of float64, its distance from 1 is drawn here.
LEAST_DISTANCE = 1e-15


def throughput(figure: Any, results: BenchResults) -> None:
    """Bars of texts a second, text to vector and model alone, with a mark at the compute bound."""
    axes = _axes(figure, left=0.3)
    whole, alone = timings(results, "text_to_vector"), timings(results, "model_only")
    colors = _colors(results)
    for place, (first, second) in enumerate(zip(whole, alone, strict=True)):
        for offset, item, alpha in ((-0.2, first, 1.0), (0.2, second, 0.45)):
            speed = texts_per_second(item)
            axes.barh(place + offset, speed.median, height=0.36, color=colors[item.side], alpha=alpha)
            axes.plot([speed.low, speed.high], [place + offset] * 2, color=INK, linewidth=1)
        if bound := timing_bound(results, first):
            axes.plot([first.texts / bound] * 2, [place - 0.42, place + 0.42], color=INK, linewidth=2, linestyle=(0, (2, 1)))
    axes.set_yticks(range(len(whole)), [item.side for item in whole])
    axes.invert_yaxis()
    axes.set_xlabel("texts/s (solid: text to vector; light: model alone; dashed: compute bound)")
    axes.grid(axis="x", color=GRID)


def peers(figure: Any, results: BenchResults) -> None:
    """Bars of texts a second of every side that was timed, fastest first, ours marked."""
    comparison = results.peers
    sides = [] if comparison is None else [side for side in comparison.sides if side.texts_per_second is not None]
    sides.sort(key=lambda side: -(side.texts_per_second or 0))
    axes = _axes(figure, left=0.42)
    for place, side in enumerate(sides):
        color, alpha = (COLORS[0], 1.0) if side.ours else (MUTED, 0.6)
        axes.barh(place, side.texts_per_second, height=0.7, color=color, alpha=alpha)
        if side.parity is not None:
            axes.annotate(f" {side.parity.mean_cosine:.4f}", (side.texts_per_second, place), va="center", color=INK, fontsize=7)
    axes.set_yticks(range(len(sides)), [side.name for side in sides])
    axes.margins(x=0.15)
    axes.invert_yaxis()
    axes.set_xlabel("texts/s, and the mean cosine to fp32")
    axes.grid(axis="x", color=GRID)


def latency(figure: Any, results: BenchResults) -> None:
    """p50 to p99 by callers at once, for both ways to call, with the compute bound."""
    left, right = figure.subplots(1, 2, sharey=True)
    colors = _colors(results)
    callers = sorted({item.callers for item in results.latencies})
    sides = measured_sides(results)
    shown: list[float] = []
    for axes, mode in zip((left, right), MODES, strict=True):
        for item in (item for item in results.latencies if item.mode == mode):
            place = callers.index(item.callers) + (sides.index(item.side) - (len(sides) - 1) / 2) * 0.8 / max(1, len(sides))
            p50, p95, p99 = percentiles_ms(item)
            color = colors[item.side]
            axes.plot([place, place], [p50, p99], color=color, linewidth=2)
            axes.plot([place], [p50], "o", color=color, markersize=4, label=item.side if item.callers == callers[0] else None)
            axes.plot([place], [p95], "_", color=color, markersize=6)
            shown += [p50, p99]
            if bound := latency_bound(results, item):
                axes.plot([place], [bound * 1e3], "_", color=INK, markersize=6, markeredgewidth=1.5)
                shown.append(bound * 1e3)
        axes.set_xticks(range(len(callers)), [str(count) for count in callers])
        axes.set_xlabel(f"callers, {mode}")
        _style(axes)
        axes.grid(axis="y", color=GRID)
    left.set_ylabel("ms (dot p50, line to p99, black: compute bound)")
    _log_axis(left, "y", shown)
    _legend(figure, left)
    figure.subplots_adjust(left=0.13, right=0.98, bottom=0.16, top=0.74, wspace=0.06)


def length(figure: Any, results: BenchResults) -> None:
    """Milliseconds of a text by its tokens, each side's compute bound dashed."""
    _cost(figure, results, "length", xlabel="tokens per text", ylabel="ms per text (dashed: compute bound)", per_text=True)


def call_size(figure: Any, results: BenchResults) -> None:
    """Milliseconds of a call by its texts, each side's compute bound dashed."""
    _cost(figure, results, "call_size", xlabel="texts per call", ylabel="ms per call (dashed: compute bound)", per_text=False)


def threads(figure: Any, results: BenchResults) -> None:
    """Texts a second by threads, each side's compute bound dashed."""
    _speed(figure, results, "threads", xlabel="threads", bounds=True)


def token_budget(figure: Any, results: BenchResults) -> None:
    """Texts a second by the tokens of a batch."""
    _speed(figure, results, "token_budget", xlabel="most tokens in a batch", bounds=False)


def parity(figure: Any, results: BenchResults) -> None:
    """Histogram of the golden texts' distance from PyTorch's vectors, 1 - cosine."""
    axes = _axes(figure, left=0.13, top=0.78)
    colors = _colors(results)
    distances = {item.side: np.maximum(1 - np.array(item.cosines), LEAST_DISTANCE) for item in results.parity}
    farthest = max(float(values.max()) for values in distances.values())
    bins = np.logspace(math.log10(LEAST_DISTANCE), max(-5.0, math.log10(farthest) + 0.3), 60)
    for side, values in distances.items():
        axes.hist(values, bins=bins, color=colors[side], alpha=0.55, label=side)
    axes.set_xscale("log")
    ticks = [10.0**power for power in range(-15, int(math.log10(bins[-1])) + 1, 3)]
    axes.set_xticks(ticks, [f"1e{round(math.log10(tick))}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("1 - cosine to PyTorch's fp32 vector (left is closer)")
    axes.set_ylabel("texts")
    axes.grid(axis="y", color=GRID)
    _legend(figure, axes)


def starts(figure: Any, results: BenchResults) -> None:
    """Stacked bars of a new process up to its first vector."""
    axes = _axes(figure, left=0.3)
    colors = _colors(results)
    for place, item in enumerate(results.starts):
        first, imports, loads = (spread(values).median for values in (item.seconds, item.import_seconds, item.load_seconds))
        parts = (max(0.0, first - imports - loads), imports, loads)
        begin = 0.0
        for seconds, alpha in zip(parts, (0.3, 0.55, 1.0), strict=True):
            axes.barh(place, seconds, left=begin, height=0.7, color=colors[item.side], alpha=alpha)
            begin += seconds
        axes.annotate(f" {spread(item.peak_bytes).median / 1e6:,.0f} MB", (begin, place), va="center", color=INK, fontsize=8)
    axes.set_yticks(range(len(results.starts)), [item.side for item in results.starts])
    axes.margins(x=0.18)
    axes.invert_yaxis()
    axes.set_xlabel("s to the first vector (import, load: darkest), and peak memory")
    axes.grid(axis="x", color=GRID)


def serving(figure: Any, results: BenchResults) -> None:
    """p50 and p99 of a server's answers by its load; dotted, the p50 of `encode` without a server."""
    axes = _axes(figure, left=0.13, top=0.78)
    colors = _colors(results)
    shown: list[float] = []
    for record in results.serving:
        rates = [rate for rate in record.rates if rate.answered_s]
        loads = [rate.share * 100 for rate in rates]
        percentiles = np.array([np.percentile(rate.answered_s, (50, 99)) for rate in rates]).reshape(-1, 2) * 1e3
        alone = float(np.median(record.encode_s)) * 1e3
        color = colors[record.side]
        axes.plot(loads, percentiles[:, 0], "o-", color=color, markersize=4, linewidth=1.8, label=record.side)
        axes.plot(loads, percentiles[:, 1], linestyle=(0, (3, 2)), color=color, linewidth=1.2)
        axes.axhline(alone, linestyle=(0, (1, 2)), color=color, linewidth=1)
        shown += [*percentiles.ravel().tolist(), alone]
    axes.set_xlabel("load, % of the throughput of 32 callers")
    axes.set_ylabel("ms (dashed: p99; dotted: encode)")
    axes.grid(color=GRID)
    _log_axis(axes, "y", shown)
    _legend(figure, axes)


def _cost(figure: Any, results: BenchResults, kind: Kind, *, xlabel: str, ylabel: str, per_text: bool) -> None:
    axes = _axes(figure, left=0.13, top=0.78)
    colors = _colors(results)
    shown: list[float] = []
    for side in measured_sides(results):
        items = timings(results, kind, side)
        scale = [1e3 / item.texts if per_text else 1e3 for item in items]
        costs = [statistics.median(item.seconds) * factor for item, factor in zip(items, scale, strict=True)]
        shown += costs + _line(
            axes,
            items,
            costs,
            side=side,
            color=colors[side],
            bounds=[
                None if (bound := timing_bound(results, item)) is None else bound * factor
                for item, factor in zip(items, scale, strict=True)
            ],
        )
    _finish(figure, axes, results, kind, xlabel=xlabel, ylabel=ylabel)
    _log_axis(axes, "y", shown)


def _speed(figure: Any, results: BenchResults, kind: Kind, *, xlabel: str, bounds: bool) -> None:
    axes = _axes(figure, left=0.13, top=0.78)
    colors = _colors(results)
    shown: list[float] = []
    for side in measured_sides(results):
        items = timings(results, kind, side)
        speeds = [texts_per_second(item).median for item in items]
        least = [item.texts / bound if bounds and (bound := timing_bound(results, item)) else None for item in items]
        shown += speeds + _line(axes, items, speeds, side=side, color=colors[side], bounds=least)
    _finish(figure, axes, results, kind, xlabel=xlabel, ylabel="texts/s (dashed: compute bound)" if bounds else "texts/s")
    axes.set_ylim(bottom=0)


def _line(
    axes: Any,
    items: Sequence[Timing],
    values: Sequence[float],
    *,
    side: str,
    color: str,
    bounds: Sequence[float | None],
) -> list[float]:
    """A side's line and its compute bound's; gives the bounds that were drawn."""
    places = [item.at for item in items]
    axes.plot(places, values, "o-", color=color, markersize=4, linewidth=1.8, label=side)
    known = [bound for bound in bounds if bound is not None]
    if len(known) == len(places):
        axes.plot(places, known, linestyle=(0, (3, 2)), color=color, linewidth=1.2)
    return known


def _finish(figure: Any, axes: Any, results: BenchResults, kind: Kind, *, xlabel: str, ylabel: str) -> None:
    places = sorted({item.at for item in timings(results, kind) if item.at is not None})
    axes.set_xscale("log", base=2)
    axes.set_xticks(places, [f"{place:,}" for place in places])
    axes.minorticks_off()
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    axes.grid(color=GRID)
    _legend(figure, axes)


def _log_axis(axes: Any, axis: str, values: Sequence[float]) -> None:
    """A logarithmic axis with plain numbers at 1, 2 and 5."""
    low, high = min(values) / 1.3, max(values) * 1.3
    ticks = [digit * 10.0**power for power in range(-6, 7) for digit in (1, 2, 5) if low <= digit * 10.0**power <= high]
    if high / low > 1e3:
        ticks = [tick for tick in ticks if f"{tick:e}".startswith("1")]
    getattr(axes, f"set_{axis}scale")("log")
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])
    getattr(axes, f"set_{axis}lim")(low, high)
    axes.minorticks_off()


def _axes(figure: Any, *, left: float, top: float = 0.96) -> Any:
    axes = figure.subplots()
    figure.subplots_adjust(left=left, right=0.97, bottom=0.17, top=top)
    _style(axes)
    return axes


def _style(axes: Any) -> None:
    axes.set_axisbelow(True)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.tick_params(colors=INK, length=0, labelsize=8)
    axes.xaxis.label.set(color=INK, fontsize=8.5)
    axes.yaxis.label.set(color=INK, fontsize=8.5)


def _legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="upper left",
        bbox_to_anchor=(0.01, 1.0),
        ncols=2,
        frameon=False,
        fontsize=8,
        labelcolor=INK,
        borderaxespad=0.2,
        handlelength=1.4,
    )


def _colors(results: BenchResults) -> dict[str, str]:
    return {side.name: COLORS[index % len(COLORS)] for index, side in enumerate(results.sides)}
