"""Plots as PNG and SVG. The only module that imports matplotlib, and only when a plot is drawn."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from cls_runtime.bench import drawings
from cls_runtime.bench.results import BenchResults
from cls_runtime.errors import MissingExtraError

PLOT_SUFFIXES = (".png", ".svg")
WIDTH_INCHES, HEIGHT_INCHES = 5.0, 3.1
_COLUMNS = 2
_PNG_DPI = 150
# A colour of a drawing, and what it is on a page that has a light and a dark form.
_PAGE_COLORS = {drawings.INK: "var(--ink)", drawings.MUTED: "var(--muted)", drawings.GRID: "var(--grid)"}


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A plot: what draws it, and whether some results have anything for it."""

    key: str
    title: str
    draw: Callable[[Any, BenchResults], None]
    shown: Callable[[BenchResults], bool]


PLOTS: tuple[Plot, ...] = (
    Plot(key="throughput", title="Throughput", draw=drawings.throughput, shown=lambda results: _has(results, "text_to_vector")),
    Plot(key="peers", title="Other projects", draw=drawings.peers, shown=lambda results: results.peers is not None),
    Plot(key="latency", title="Latency", draw=drawings.latency, shown=lambda results: bool(results.latencies)),
    Plot(key="length", title="Time by length", draw=drawings.length, shown=lambda results: _has(results, "length")),
    Plot(key="call_size", title="Time by texts per call", draw=drawings.call_size, shown=lambda results: _has(results, "call_size")),
    Plot(key="threads", title="Throughput by threads", draw=drawings.threads, shown=lambda results: _has(results, "threads")),
    Plot(
        key="token_budget",
        title="Throughput by token budget",
        draw=drawings.token_budget,
        shown=lambda results: _has(results, "token_budget"),
    ),
    Plot(key="parity", title="Parity", draw=drawings.parity, shown=lambda results: bool(results.parity)),
    Plot(key="serving", title="Serving", draw=drawings.serving, shown=lambda results: bool(results.serving)),
    Plot(key="start", title="Cold start and memory", draw=drawings.starts, shown=lambda results: bool(results.starts)),
)


def require_bench_extra() -> None:
    """Checks that plots and the HTML report can be made.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    for package in ("matplotlib", "jinja2"):
        if find_spec(package) is None:
            raise MissingExtraError(f"plots and HTML reports need {package}; run: pip install cls-export[bench]")


def shown_plots(results: BenchResults) -> tuple[Plot, ...]:
    """The plots that these results have something for."""
    return tuple(plot for plot in PLOTS if plot.shown(results))


def overview(results: BenchResults, *, suffix: str) -> bytes:
    """All plots on one page, `.png` or `.svg`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_bench_extra()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    plots = shown_plots(results)
    rows = -(-len(plots) // _COLUMNS)
    with mpl.rc_context({"svg.hashsalt": "overview", "svg.fonttype": "path"}):
        figure: Any = Figure(figsize=(WIDTH_INCHES * _COLUMNS, (HEIGHT_INCHES + 0.35) * rows + 0.4), facecolor="white")
        name = f"{results.bundle.source}: {results.settings.threads} threads, {results.host.cpu}"
        figure.suptitle(name, color=drawings.INK, fontsize=11, parse_math=False, y=1 - 0.12 / figure.get_figheight())
        body = figure.subfigures(2, 1, height_ratios=[0.4, (HEIGHT_INCHES + 0.35) * rows])[1]
        cells = body.subfigures(rows, _COLUMNS, squeeze=False)
        for cell, plot in zip(cells.flat, plots, strict=False):
            title, place = cell.subfigures(2, 1, height_ratios=[0.35, HEIGHT_INCHES])
            title.text(0.02, 0.25, plot.title, color=drawings.INK, fontsize=10, fontweight="bold")
            plot.draw(place, results)
        return _saved(figure, suffix, transparent=False)


def inline_svg(plot: Plot, results: BenchResults) -> str:
    """One plot as an `<svg>` element for an HTML page: it scales, refers to nothing outside, and takes its ink from the page.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_bench_extra()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context({"svg.hashsalt": plot.key, "svg.fonttype": "none"}):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES))
        plot.draw(figure, results)
        svg = _saved(figure, ".svg", transparent=True).decode()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<(metadata|style)\b.*?</\1>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:xmlns(?::\w+)?|version|width|height)="[^"]*"', "", svg[: svg.index(">")], flags=re.DOTALL) + svg[svg.index(">") :]
    # Ids are the page's, and every plot has the same ones.
    svg = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{plot.key}-", svg)
    for color, page_color in _PAGE_COLORS.items():
        svg = svg.replace(color, page_color)
    return svg.replace("<svg", f'<svg role="img" aria-label="{plot.title}"', 1).strip()


def _saved(figure: Any, suffix: str, *, transparent: bool) -> bytes:
    buffer = io.BytesIO()
    metadata = {"Date": None, "Creator": None} if suffix == ".svg" else {"Software": None}
    figure.savefig(buffer, format=suffix[1:], dpi=_PNG_DPI, transparent=transparent, metadata=metadata)
    return buffer.getvalue()


def _has(results: BenchResults, kind: str) -> bool:
    return any(item.kind == kind for item in results.timings)
