"""Draws the README's chart, texts per second beside what people use instead, from recorded results: a light and a dark SVG.

    python scripts/draw_speed.py            writes docs/images/speed-light.svg and speed-dark.svg
    python scripts/draw_speed.py --check    writes nothing; ends with 1 where a chart does not show today's results

The CPU's part comes from benchmarks/results/vnni/peers_minilm.json, a GPU's from benchmarks/results/gpu/ once a card has been measured.
Each SVG carries its figures as its description, which is what `--check` compares: matplotlib's drawing changes with its version.
"""

from __future__ import annotations

import argparse
import io
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
from bench_report import Pair, benchmark_script, peer_pairs, rounded_down
from matplotlib.axes import Axes
from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parent.parent
RESULTS, IMAGES = ROOT / "benchmarks" / "results", ROOT / "docs" / "images"
PEERS = RESULTS / "vnni" / "peers_minilm.json"
OURS = "cls-export, int8"
_DESCRIPTION = re.compile(r"<dc:description>(.*?)</dc:description>", re.DOTALL)
_BAR_INCHES, _HEAD_INCHES, _WIDTH_INCHES = 0.46, 0.5, 8.4
_LEFT, _RIGHT = 0.335, 0.995  # of the width: between them are the bars, before them the names


@dataclass(frozen=True, kw_only=True)
class Colors:
    """A chart's colours; the background is the page's."""

    ink: str
    muted: str
    theirs: str
    ours: str


THEMES = {
    "light": Colors(ink="#1f2328", muted="#59636e", theirs="#b6bec7", ours="#0a69da"),
    "dark": Colors(ink="#f0f6fc", muted="#9198a1", theirs="#4a525c", ours="#4493f8"),
}


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One machine's comparisons."""

    title: str
    pairs: tuple[Pair, ...]


def panels() -> list[Panel]:
    """The CPU's, and a panel for each GPU that was measured."""
    return [_cpu_panel(), *_gpu_panels()]


def _cpu_panel() -> Panel:
    measured = benchmark_script("text_to_vectors").read(PEERS)
    return Panel(
        title=f"CPU: {measured.model}, {measured.host.usable_cpus} cores with VNNI, texts per second", pairs=tuple(peer_pairs(PEERS))
    )


def _gpu_panels() -> Iterator[Panel]:
    for path in sorted((RESULTS / "gpu").glob("*.json")):
        held = benchmark_script("gpu").read(path)
        for work in dict.fromkeys(item.work for item in held.of("texts", side="cls-export")):
            (ours,) = held.of("texts", work=work, side="cls-export")
            others = [item for item in held.of("texts", work=work) if item.side != ours.side]
            mine = ours.texts_per_second.median
            speeds = {f"{item.side}, fp16": item.texts_per_second.median for item in others}
            pairs = [Pair(name=name, theirs=speed, ours=mine, ratio=mine / speed) for name, speed in speeds.items()]
            if pairs and not held.small:
                yield Panel(title=f"GPU: {work}, {held.card.name}, texts per second", pairs=tuple(pairs))


def description(shown: Sequence[Panel]) -> str:
    """Everything that the chart shows, as text."""
    lines = []
    for panel in shown:
        told = "; ".join(f"{pair.name} {pair.theirs:,.0f}, ours {pair.ours:,.0f} ({rounded_down(pair.ratio)}x)" for pair in panel.pairs)
        lines.append(f"{panel.title}: {told}.")
    return " ".join(lines)


def drawn(shown: Sequence[Panel], colors: Colors) -> bytes:
    """The chart as SVG, the same every time."""
    with mpl.rc_context({"svg.hashsalt": "speed", "svg.fonttype": "path", "font.size": 10}):
        rows = [len(panel.pairs) for panel in shown]
        height = sum(rows) * _BAR_INCHES + len(rows) * _HEAD_INCHES
        figure = Figure(figsize=(_WIDTH_INCHES, height))
        places = figure.subplots(len(shown), 1, squeeze=False, height_ratios=rows)[:, 0]
        between = _HEAD_INCHES * len(rows) / (_BAR_INCHES * sum(rows))  # of the mean height of a panel
        figure.subplots_adjust(left=_LEFT, right=_RIGHT, bottom=0.005, top=1 - _HEAD_INCHES / height, hspace=between)
        for axes, panel in zip(places, shown, strict=True):
            _draw(axes, panel, colors)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Description": description(shown)}, transparent=True)
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel, colors: Colors) -> None:
    """Two bars for each comparison, both of one run."""
    longest = max(max(pair.ours, pair.theirs) for pair in panel.pairs)
    for row, pair in enumerate(panel.pairs):
        axes.barh(row - 0.18, pair.theirs, height=0.34, color=colors.theirs)
        axes.barh(row + 0.18, pair.ours, height=0.34, color=colors.ours)
        for offset, value, ink, weight in ((-0.18, f"{pair.theirs:,.0f}", colors.muted, "normal"), (0.18, _told(pair), colors.ink, "bold")):
            at = (pair.theirs if offset < 0 else pair.ours) + 0.01 * longest
            axes.text(at, row + offset, value, va="center", color=ink, fontweight=weight, fontsize=9)
    axes.set_yticks(range(len(panel.pairs)), [pair.name for pair in panel.pairs], color=colors.ink)
    axes.invert_yaxis()
    axes.margins(y=0.01)
    axes.set_xlim(0, 1.22 * longest)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.set_facecolor("none")
    for side in axes.spines.values():
        side.set_visible(False)
    axes.set_title(panel.title, loc="left", x=-_LEFT / (_RIGHT - _LEFT), color=colors.ink, fontsize=10.5, fontweight="bold")
    axes.text(1, 1.02, OURS, transform=axes.transAxes, ha="right", va="bottom", color=colors.ours, fontweight="bold", fontsize=10)


def _told(pair: Pair) -> str:
    return f"{pair.ours:,.0f}   {rounded_down(pair.ratio)}x"


def main(argv: Sequence[str] | None = None) -> int:
    """Writes both charts, or checks them; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a chart does not show today's results")
    options = parser.parse_args(argv)
    shown, stale = panels(), 0
    for theme, colors in THEMES.items():
        path = IMAGES / f"speed-{theme}.svg"
        if not options.check:
            path.write_bytes(drawn(shown, colors))
        elif not path.is_file() or _DESCRIPTION.findall(path.read_text(encoding="utf-8")) != [description(shown)]:
            print(f"{path.relative_to(ROOT)} does not show today's results; run make bench-report", file=sys.stderr)
            stale += 1
    return min(stale, 1)


if __name__ == "__main__":
    sys.exit(main())
