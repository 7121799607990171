"""Fills in the benchmark figures of the documentation (`marked_pages`) from benchmarks/results/; nobody types one.

    python scripts/bench_report.py            writes the pages
    python scripts/bench_report.py --check    writes nothing; ends with 1 where a page is not what it would write

A page says where a figure goes, what it is, and from which file:

    <!-- bench:begin throughput avx2/cls_bench.json -->
    (filled in)
    <!-- bench:end -->

A folder of results is a kind of CPU: `avx2`, or `vnni` where it has int8 instructions. `make bench` writes into that of its own CPU. `gpu`
has a file a card, of which there may be none: a figure of a GPU then says that it has not been measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import importlib.util
import itertools
import json
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

from cls_runtime.bench.bars import read_bars
from cls_runtime.bench.results import read_results
from cls_runtime.bench.table import Table, markdown
from cls_runtime.bench.tables import all_tables, environment
from cls_runtime.commands.bench import report_lines

ROOT = Path(__file__).resolve().parent.parent
NOT_MEASURED = "*Not measured: no run of benchmarks/gpu.py on a GPU is recorded for this version.*"
BLOCK = re.compile(r"<!-- bench:begin (?P<what>[a-z_]+) (?P<file>[\w./-]+) -->\n(?P<body>.*?)<!-- bench:end -->", re.DOTALL)
MARK = re.compile(r"<!-- bench:")


def marked_pages(root: Path = ROOT) -> list[Path]:
    """The pages that have a figure."""
    pages = (*root.glob("*.md"), *(root / "docs").rglob("*.md"), *(root / "benchmarks").glob("*.md"))
    return [page for page in sorted(pages) if "<!-- bench:begin" in page.read_text(encoding="utf-8")]


def filled(page: str, *, root: Path = ROOT) -> str:
    """The text of a page with every block filled in.

    Raises:
        ValueError: a mark without its partner, an unknown figure, or a results file that is not there.
    """
    text = BLOCK.sub(lambda block: f"{block[0][: block.start('body') - block.start()]}{_body(block, root)}\n<!-- bench:end -->", page)
    if len(MARK.findall(text)) != 2 * len(BLOCK.findall(text)):
        raise ValueError("a bench:begin without its bench:end, or the other way round, or one that is not '<!-- bench:begin NAME FILE -->'")
    return text


def _body(block: re.Match[str], root: Path) -> str:
    what, path = block["what"], root / "benchmarks" / "results" / block["file"]
    if not path.is_file() and what == "gpu":
        return NOT_MEASURED
    if not path.is_file():
        raise ValueError(f"{block['file']} is not in benchmarks/results; run make bench")
    if what in FIGURES:
        return FIGURES[what](path)
    results = read_results(path)
    tables = {table.key: table for table in all_tables(results)}
    if what not in tables:
        raise ValueError(f"{block['file']} has no figure {what!r}; it has {', '.join([*tables, *FIGURES])}")
    return f"{markdown(tables[what])}\n\n{tables[what].caption}"


def _measured_on(path: Path) -> str:
    """What a results file was measured on."""
    facts = dict(environment(read_results(path)))
    named = ("fingerprint", "texts", "cpu", "cpu features", "versions", "threads", "measured")
    return "\n".join(f"- {name}: {facts[name]}" for name in named)


def _terminal(path: Path) -> str:
    """How `cls-bench` begins to print the results, as a console block."""
    lines = list(itertools.takewhile(lambda line: line != "Time by length", report_lines(read_results(path))))
    return "\n".join(["```console", "$ cls-bench models/all-MiniLM-L6-v2", *lines[:-1], "...", "```"])


def _graph_table(path: Path) -> str:
    run = json.loads(path.read_text(encoding="utf-8"))
    rows = [
        "| graph | median | times as fast | quartiles of the rounds | largest difference of a vector |",
        "| --- | ---: | ---: | ---: | ---: |",
        f"| `last_hidden_state[:, 0]`, exported by PyTorch | {run['median_ms']['wrapper']:.1f} ms |  |  |  |",
    ]
    for name, speedup in run["speedups"].items():
        low, high = speedup["quartiles"]
        rows.append(
            f"| cls-export, {name} | {run['median_ms'][name]:.1f} ms | {speedup['median']:.2f} | {low:.2f} to {high:.2f} "
            f"| {speedup['max_abs_difference']:.1e} |"
        )
    what = f"{run['texts']} texts of {run['tokens']} tokens, {run['threads']} thread{'s' * (run['threads'] > 1)}, {run['rounds']} rounds."
    return "\n".join(rows) + f"\n\n{what}"


def _graph_sentence(path: Path) -> str:
    speedups = json.loads(path.read_text(encoding="utf-8"))["speedups"]
    return (
        f"For all-MiniLM-L6-v2, the exported graph is {speedups['fp32']['median']:.2f} times as fast as PyTorch's export of "
        f"`last_hidden_state[:, 0]` in the same engine, and {speedups['int8']['median']:.2f} times as fast in int8."
    )


def _own_table(script_name: str, path: Path) -> str:
    """The table that a script in benchmarks/ makes of its own results."""
    script = benchmark_script(script_name)
    table: str = script.table(script.read(path))
    return table


# What people use instead, by its name in the results: each project's fastest int8 setting, and the loop that most code has.
PEERS = {
    "transformers:as_given": "transformers loop, fp32",
    "fastembed:int8": "fastembed, int8",
    "optimum:int8_sorted": "optimum, int8, sorted by hand",
    "sentence-transformers:onnx_int8": "sentence-transformers, ONNX int8",
    "ctranslate2:int8_sorted": "CTranslate2, int8, sorted by hand",
    "openvino:int8_sorted": "OpenVINO, NNCF int8, sorted by hand",
}


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One comparison: both sides' texts per second, and by how much ours is faster, the median of the rounds' ratios."""

    name: str
    theirs: float
    ours: float
    ratio: float


@dataclass(frozen=True, kw_only=True)
class PeerPair(Pair):
    """One with a peer, and both sides' mean cosines to fp32."""

    their_cosine: float
    our_cosine: float


def peer_pairs(path: Path) -> list[PeerPair]:
    """Our fastest variant against each of `PEERS`, from one results file; the README's chart shows them too."""
    peers = benchmark_script("text_to_vectors")
    measured = peers.read(path)
    best = {line.theirs: peers.best_ratio(line, measured) for line in peers.LINES if len(line.ours) > 1}
    return [
        PeerPair(
            name=shown,
            theirs=theirs.texts_per_second,
            ours=ours.texts_per_second,
            their_cosine=theirs.parity.mean_cosine,
            our_cosine=ours.parity.mean_cosine,
            ratio=ratio.median,
        )
        for name, shown in PEERS.items()
        for ratio, ours, theirs in [best[(name,)]]
    ]


def _peers_short(path: Path) -> str:
    """Our fastest variant against each project's best measured int8 setting, and the usual loop: the pairs of the README's chart."""
    rows = [
        "| compared with | theirs, texts/s | ours, texts/s | times as fast | their mean cosine to fp32 | ours |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for pair in peer_pairs(path):
        speeds = f"{pair.theirs:,.0f} | {pair.ours:,.0f} | {rounded_down(pair.ratio)}"
        rows.append(f"| {pair.name} | {speeds} | {pair.their_cosine:.4f} | {pair.our_cosine:.4f} |")
    return "\n".join(rows)


def _serving_latency(path: Path) -> str:
    """How long a request takes at each rate: of the table of a server the lines and columns that sizing needs."""
    (table,) = (table for table in all_tables(read_results(path)) if table.key == "serving")
    columns = [table.header.index(name) for name in ("load", "answered/s", "p50 ms", "p95 ms", "p99 ms")]
    rows = [tuple(row[column].removeprefix("cls-serve, ") for column in columns) for row in table.rows if row[1].endswith("%")]
    return markdown(dataclasses.replace(table, header=tuple(table.header[column] for column in columns), rows=tuple(rows), label_columns=1))


def _serving_missed(path: Path) -> str:
    """The bars of a server that are missed."""
    held = read_bars(path)
    rows = [
        (record.test, figure.name, f"{figure.value:.2f} {figure.unit}".strip(), f"at {word} {bar:g} {figure.unit}".strip())
        for record in held.bars.values()
        for figure in record.figures
        for word, bar in (("most", figure.most), ("least", figure.least))
        if bar is not None and not figure.holds
    ]
    return markdown(
        Table(
            key="serving_missed",
            title="Bars that are missed",
            caption="",
            header=("test", "figure", "measured", "bar"),
            rows=tuple(rows),
            label_columns=4,
        )
    )


def _native_short(path: Path) -> str:
    """The bars of speed and memory: those of counts that must be 0 are left to the full table."""
    held = read_bars(path)
    rows = [
        (record.test, figure.name, figure.measured, figure.bar + ("" if figure.holds else ": **missed**"))
        for record in held.bars.values()
        for figure in record.figures
        if figure.bar and figure.most != 0
    ]
    header = ("test", "figure", "measured", "bar")
    return markdown(Table(key="native_short", title="Bars", caption="", header=header, rows=tuple(rows), label_columns=4))


def _gpu(path: Path) -> str:
    """All that benchmarks/gpu.py measured on a card."""
    script = benchmark_script("gpu")
    figures: str = script.shown(script.read(path))
    return figures


# Figures that are no table of cls-bench.
FIGURES: Mapping[str, Callable[[Path], str]] = {
    "measured_on": _measured_on,
    "terminal": _terminal,
    "graph_table": _graph_table,
    "graph_sentence": _graph_sentence,
    "against_peers": partial(_own_table, "text_to_vectors"),
    "peers_short": _peers_short,
    "serving_latency": _serving_latency,
    "serving_missed": _serving_missed,
    "serving_bars": partial(_own_table, "serving_bars"),
    "serving_peers": partial(_own_table, "serving_peers"),
    "native_bars": partial(_own_table, "native_bars"),
    "native_short": _native_short,
    "gpu": _gpu,
}


def rounded_down(ratio: float) -> str:
    """A ratio in two or three digits, never better than it is: 13.15 is 13, 2.58 is 2.5 and 1.077 is 1.07."""
    digits = 0 if ratio >= 10 else 1 if ratio >= 2 else 2
    scale = 10**digits
    return f"{math.floor(ratio * scale + 1e-9) / scale:.{digits}f}"


def benchmark_script(name: str) -> ModuleType:
    """A script of benchmarks/ as a module, which finds what lies beside it."""
    if str(ROOT / "benchmarks") not in sys.path:
        sys.path.append(str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(name, ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def main(argv: Sequence[str] | None = None) -> int:
    """Fills in the pages, or checks them; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="write nothing; end with 1 where a page differs")
    options = parser.parse_args(argv)
    differing = 0
    for path in marked_pages():
        name = path.relative_to(ROOT).as_posix()
        before = path.read_text(encoding="utf-8")
        try:
            after = filled(before)
        except ValueError as error:
            print(f"error: {name}: {error}", file=sys.stderr)
            return 2
        if after == before:
            continue
        differing += 1
        if options.check:
            lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, f"{name}, from the results", lineterm="", n=0)
            print("\n".join(lines))
        else:
            path.write_text(after, encoding="utf-8")
            print(f"{name}: figures filled in")
    return 1 if options.check and differing else 0


if __name__ == "__main__":
    sys.exit(main())
