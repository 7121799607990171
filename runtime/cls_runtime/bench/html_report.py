"""One HTML page with every table and plot of a benchmark: it needs no network, reads on a phone and prints."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from cls_runtime.bench.figures import latency_bound, percentiles_ms, texts_per_second, timings
from cls_runtime.bench.plots import inline_svg, require_bench_extra, shown_plots
from cls_runtime.bench.results import BenchResults
from cls_runtime.bench.table import UNKNOWN, Table, bound_ratio, digits
from cls_runtime.bench.tables import all_tables, environment

TEMPLATE = "report.html.j2"
_WIDE = frozenset({"throughput", "peers", "latency", "serving"})


@dataclass(frozen=True, kw_only=True)
class Section:
    """A part of the page: a table, and the plot of the same key where there is one. A wide one has the page's whole width."""

    key: str
    title: str
    table: Table
    svg: str | None
    wide: bool


@dataclass(frozen=True, kw_only=True)
class Headline:
    """A figure that a reader looks for first, in words."""

    figure: str
    unit: str
    words: str


def html_report(results: BenchResults) -> str:
    """The page. Everything that came from outside (names, texts' origin, errors of peers) is escaped.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    require_bench_extra()
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("cls_runtime.bench", package_path="templates")
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).get_template(
        TEMPLATE
    )
    return template.render(results=results, headlines=headlines(results), sections=sections(results), environment=environment(results))


def sections(results: BenchResults) -> tuple[Section, ...]:
    """Tables and plots, each plot with the table of its key."""
    svgs = {plot.key: inline_svg(plot, results) for plot in shown_plots(results)}
    return tuple(
        Section(key=table.key, title=table.title, table=table, svg=svgs.get(table.key), wide=table.key in _WIDE)
        for table in all_tables(results)
    )


def headlines(results: BenchResults) -> tuple[Headline, ...]:
    """The fastest side's throughput and its ratio to the compute bound, the shortest latency and the shortest start."""
    shown: list[Headline] = []
    if whole := timings(results, "text_to_vector"):
        fastest = max(whole, key=lambda item: texts_per_second(item).median)
        shown.append(Headline(figure=f"{texts_per_second(fastest).median:,.0f}", unit="texts/s", words=f"text to vector, {fastest.side}"))
        if (times := bound_ratio(results, fastest)) != UNKNOWN:
            words = "time taken vs. its multiply-adds alone at this machine's measured rate"
            shown.append(Headline(figure=times, unit="ratio to compute bound", words=words))
    if alone := [item for item in results.latencies if item.callers == 1]:
        quickest = min(alone, key=lambda item: percentiles_ms(item)[0])
        bound = latency_bound(results, quickest)
        beside = "" if bound is None else f", compute bound {digits(bound * 1e3)} ms"
        words = f"p50 of one caller, {quickest.side}{beside}"
        shown.append(Headline(figure=digits(percentiles_ms(quickest)[0]), unit="ms", words=words))
    if results.starts:
        first = min(results.starts, key=lambda item: statistics.median(item.seconds))
        words = f"from process start to first vector, {first.side}"
        shown.append(Headline(figure=f"{statistics.median(first.seconds):.2f}", unit="s", words=words))
    return tuple(shown)
