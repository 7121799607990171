"""A table as rows of words: the terminal, the HTML report and the README print the same ones."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from cls_runtime.bench.figures import timing_bound
from cls_runtime.bench.results import BenchResults, Timing

UNKNOWN = "-"


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table: `header` and `rows` have the same width; the first `label_columns` are names, the others figures."""

    key: str
    title: str
    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    label_columns: int = 1


def markdown(table: Table) -> str:
    """The table in Markdown, figures aligned to the right."""
    marks = ["---" if index < table.label_columns else "---:" for index in range(len(table.header))]
    return "\n".join(_line(cells) for cells in (table.header, marks, *table.rows))


def bound_ratio(results: BenchResults, item: Timing) -> str:
    """The time of a round divided by its compute bound, in words."""
    bound = timing_bound(results, item)
    return UNKNOWN if not bound else f"{statistics.median(item.seconds) / bound:.1f}"


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"
