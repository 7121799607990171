"""Draws a server's latency by load from recorded results, as docs/images/serving.svg.

python scripts/draw_serving.py benchmarks/results/vnni/cls_bench_serving.json [--output docs/images/serving.svg]
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from cls_runtime.bench.drawings import serving
from cls_runtime.bench.plots import HEIGHT_INCHES, WIDTH_INCHES
from cls_runtime.bench.results import BenchResults, read_results

ROOT = Path(__file__).resolve().parent.parent


def drawn(results: BenchResults) -> bytes:
    """The plot as SVG, the same every time.

    Raises:
        ValueError: no server was measured.
    """
    if not results.serving:
        raise ValueError("no server was measured; run cls-bench with --serve")
    with mpl.rc_context({"svg.hashsalt": "serving", "svg.fonttype": "path"}):
        figure = Figure(figsize=(1.4 * WIDTH_INCHES, 1.2 * HEIGHT_INCHES), facecolor="white")
        serving(figure, results)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return buffer.getvalue()


def main(argv: Sequence[str] | None = None) -> int:
    """Writes the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path)
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "images" / "serving.svg")
    options = parser.parse_args(argv)
    options.output.write_bytes(drawn(read_results(options.results)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
