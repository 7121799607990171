"""The recorded figures reach the bars. `make bench` records them on a machine that does nothing else, and each file names its CPU.

Nothing is measured here: what a run of the tests holds on any machine is in tests/test_benchmarks.py.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import bench_report
import pytest
import serving_bars

from cls_runtime.bench.figures import ratio, timings
from cls_runtime.bench.results import BenchResults, read_results
from cls_runtime.bench.spread import times_as_fast

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"
KINDS = ("avx2", "vnni")
SERVING = sorted(RESULTS.glob("*/serving.json"))
Run = Mapping[str, Any]


class Bars(NamedTuple):
    """How many times as fast as the wrapper a graph is, 32 texts of 32 tokens on one thread (issues 3 and 4)."""

    fp32: float
    int8_with_vnni: float  # whose int8 products take a quarter of fp32's time; with AVX2 alone they take two thirds


GRAPH_SPEEDS = {
    "graph_speed_minilm.json": Bars(fp32=1.12, int8_with_vnni=3.6),
    "graph_speed_bert_base.json": Bars(fp32=1.07, int8_with_vnni=2.9),
}
# int8 on ONNX Runtime, times our own fp32 there, on any CPU. The same batch of MiniLM: 2.67 with AVX512-VNNI; 1.46 on AMD Zen 3 with AVX2.
INT8_OVER_FP32 = 1.2
VNNI_FEATURES = frozenset({"avx512_vnni", "avx_vnni"})
FIRST_VECTOR_SECONDS = {"avx2": {"fp32": 1.0, "int8": 0.8}, "vnni": {"fp32": 0.8, "int8": 0.6}}  # the CPU with AVX2 alone is a slow one


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """A kind of CPU: the name of its folder of results."""
    return str(request.param)


def graph_speed(kind: str, file: str) -> Run:
    run: Run = json.loads((RESULTS / kind / file).read_text(encoding="utf-8"))
    return run


def features(run: Run) -> frozenset[str]:
    """Those of the CPU that the run was recorded on."""
    return frozenset(run["machine"].get("cpu_features", "").split(", "))


def missed(run: Run, bars: Bars) -> list[str]:
    """Every bar that holds on the recorded CPU and that the run misses."""
    medians = {precision: speedup["median"] for precision, speedup in run["speedups"].items()}
    over_fp32 = statistics.median(times_as_fast(run["samples_ms"]["int8"], run["samples_ms"]["fp32"]))
    held = {"fp32 over the wrapper": (medians["fp32"], bars.fp32), "int8 over fp32": (over_fp32, INT8_OVER_FP32)}
    if features(run) & VNNI_FEATURES:
        held["int8 over the wrapper, VNNI"] = (medians["int8"], bars.int8_with_vnni)
    return [f"{name}: {figure:.2f}, expected at least {bar}" for name, (figure, bar) in held.items() if figure < bar]


@pytest.mark.parametrize(("file", "bars"), GRAPH_SPEEDS.items())
def test_the_recorded_speed_reaches_the_bars(kind: str, file: str, bars: Bars) -> None:
    """What the documentation quotes is read from these files (tests/test_bench_report.py)."""
    run = graph_speed(kind, file)
    assert (run["texts"], run["tokens"], run["threads"]) == (32, 32, 1)
    assert ("avx2" in features(run), bool(features(run) & VNNI_FEATURES)) == (True, kind == "vnni"), "recorded on another kind of CPU"
    assert missed(run, bars) == [], f"recorded with {run['machine']['cpu_features']}"


def made(*, fp32_ms: float, int8_ms: float, cpu_features: str) -> Run:
    """A run in which a batch takes the wrapper 100 ms."""
    speedups = {"fp32": {"median": 100 / fp32_ms}, "int8": {"median": 100 / int8_ms}}
    return {
        "speedups": speedups,
        "samples_ms": {"fp32": [fp32_ms] * 3, "int8": [int8_ms] * 3},
        "machine": {"cpu_features": cpu_features},
    }


@pytest.mark.parametrize("vnni", sorted(VNNI_FEATURES))
@pytest.mark.parametrize(
    ("fp32_ms", "int8_ms", "without_vnni", "with_vnni"),
    [
        (70.0, 27.0, [], []),
        (70.0, 50.0, [], ["int8 over the wrapper, VNNI: 2.00, expected at least 3.6"]),
        (
            70.0,
            62.5,
            ["int8 over fp32: 1.12, expected at least 1.2"],
            ["int8 over fp32: 1.12, expected at least 1.2", "int8 over the wrapper, VNNI: 1.60, expected at least 3.6"],
        ),
        (100.0, 27.0, ["fp32 over the wrapper: 1.00, expected at least 1.12"], ["fp32 over the wrapper: 1.00, expected at least 1.12"]),
    ],
)
def test_the_bars_are_those_of_the_recorded_cpu(
    vnni: str, fp32_ms: float, int8_ms: float, without_vnni: list[str], with_vnni: list[str]
) -> None:
    bars = GRAPH_SPEEDS["graph_speed_minilm.json"]
    assert missed(made(fp32_ms=fp32_ms, int8_ms=int8_ms, cpu_features="avx2, fma"), bars) == without_vnni
    assert missed(made(fp32_ms=fp32_ms, int8_ms=int8_ms, cpu_features=f"avx2, fma, {vnni}"), bars) == with_vnni


@pytest.fixture
def recorded(kind: str) -> BenchResults:
    return read_results(RESULTS / kind / "cls_bench.json")


@pytest.mark.parametrize("file", GRAPH_SPEEDS)
def test_all_of_make_bench_was_recorded_on_one_cpu(kind: str, file: str, recorded: BenchResults) -> None:
    """benchmarks/README.md names it once, above all its tables."""
    machine = graph_speed(kind, file)["machine"]
    assert (machine["processor"], machine["cpu_features"]) == (recorded.host.cpu, ", ".join(recorded.host.cpu_features))


def test_recorded_int8_is_faster_than_fp32_from_text_to_vector(recorded: BenchResults) -> None:
    int8, fp32 = (timings(recorded, "text_to_vector", f"{variant} on onnxruntime")[0] for variant in ("int8", "fp32"))
    assert ratio(int8, fp32).median >= INT8_OVER_FP32


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_the_recorded_first_vector_comes_in_time(kind: str, variant: str, recorded: BenchResults) -> None:
    """Every sample, from the start of a process; medians 0.44 s and 0.37 s with VNNI.

    What it may do on the way there is in tests/runtime/test_imports.py and test_resource_limits.py.
    """
    (start,) = (item for item in recorded.starts if item.side == f"{variant} on onnxruntime")
    assert max(start.seconds) < FIRST_VECTOR_SECONDS[kind][variant]


@pytest.mark.skipif(not SERVING, reason="not recorded: run benchmarks/serving_bars.py with --json")
@pytest.mark.parametrize("path", SERVING, ids=lambda path: path.parent.name)
def test_the_recorded_figures_of_the_server_reach_its_bars_but_those_that_are_known_to_be_missed(path: Path) -> None:
    """Each line of its table of bars; docs/adr/0011 says why two are missed, and docs/guides/serve.md that they are."""
    missed = serving_bars.missed(path)
    assert [line.partition(":")[0] for line in missed] == ["overhead", "clients"], missed
    page = (Path(__file__).resolve().parent.parent / "docs" / "guides" / "serve.md").read_text(encoding="utf-8")
    assert "Two bars are missed" in page
    assert bench_report.FIGURES["serving_missed"](path) in page or path.parent.name != "vnni"


def test_the_readmes_own_figures_are_the_recorded_ones() -> None:
    """Those in its prose; the chart's and the generated ones are compared by tests/test_bench_report.py."""
    readme = (RESULTS.parent.parent / "README.md").read_text(encoding="utf-8")
    (memory,) = re.findall(r"(\d+) MB of memory with the native engine", readme)
    figures = json.loads((RESULTS / "vnni" / "native_minilm.json").read_text())["bars"]["start"]["figures"]
    assert int(memory) == round(next(figure["value"] for figure in figures if figure["name"] == "native, peak resident memory"))
    assert "first vector in under a second" in readme
    starts = [
        start for kind in KINDS for start in read_results(RESULTS / kind / "cls_bench.json").starts if "onnxruntime" in str(start.side)
    ]
    assert len(starts) == 4
    assert max(statistics.median(start.seconds) for start in starts) < 1
    assert "nearly as fast in int8" in readme
    assert min(pair.ratio for pair in bench_report.peer_pairs(RESULTS / "vnni" / "peers_minilm.json")) < 1.15
