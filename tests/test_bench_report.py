"""The figures in the documentation are those of the results files, and a page that says something else is found."""

from __future__ import annotations

import json
from pathlib import Path

import bench_report
import pytest

from cls_runtime.bench.results import read_results, results_json

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("kind", ["avx2", "vnni"])
def test_the_recorded_results_are_read_and_written_as_they_are(kind: str) -> None:
    """Whatever their classes are called: the file's fields stay, or nobody's earlier results could be read."""
    recorded = ROOT / "benchmarks" / "results" / kind / "cls_bench.json"
    assert results_json(read_results(recorded)) == recorded.read_text(encoding="utf-8")


def test_every_page_says_what_its_results_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert bench_report.main(["--check"]) == 0, capsys.readouterr().out + "run make bench-report"


def test_pages_with_figures_are_found() -> None:
    marked = {page.relative_to(ROOT).as_posix() for page in bench_report.marked_pages()}
    assert {"README.md", "benchmarks/README.md", "docs/guides/serve.md"} <= marked


def test_a_servers_plot_is_drawn_from_its_results_the_same_every_time(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import draw_serving
    from bench_results import RESULTS

    (tmp_path / "results.json").write_text(results_json(RESULTS))
    assert draw_serving.main([str(tmp_path / "results.json"), "--output", str(tmp_path / "serving.svg")]) == 0
    assert (tmp_path / "serving.svg").read_bytes() == draw_serving.drawn(RESULTS)
    with pytest.raises(ValueError, match="no server was measured"):
        draw_serving.drawn(read_results(ROOT / "benchmarks" / "results" / "vnni" / "cls_bench.json"))


def test_the_readmes_chart_shows_the_recorded_results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import draw_speed

    assert draw_speed.main(["--check"]) == 0
    (cpu,) = (panel for panel in draw_speed.panels() if panel.title.startswith("CPU"))
    assert len(cpu.pairs) == len(bench_report.PEERS)
    told = draw_speed.description([cpu])
    assert all(
        f"{name} {pair.theirs:,.0f}, ours {pair.ours:,.0f}" in told
        for name, pair in zip(bench_report.PEERS.values(), cpu.pairs, strict=True)
    )
    light = draw_speed.drawn([cpu], draw_speed.THEMES["light"])
    assert light == draw_speed.drawn([cpu], draw_speed.THEMES["light"])
    assert light != draw_speed.drawn([cpu], draw_speed.THEMES["dark"])
    monkeypatch.setattr(draw_speed, "IMAGES", tmp_path)
    monkeypatch.setattr(draw_speed, "ROOT", tmp_path)
    for theme in draw_speed.THEMES:
        (tmp_path / f"speed-{theme}.svg").write_bytes(light.replace(b"transformers loop", b"another loop"))
    assert draw_speed.main(["--check"]) == 1


def test_a_card_that_was_measured_is_in_the_chart(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import draw_speed
    from on_gpu.results import OURS, SENTENCE_TRANSFORMERS, Card, GpuFile, Samples, write

    from cls_runtime.bench.machine import this_host

    sides = tuple(
        Samples(work="MiniLM, 25 tokens", side=side, texts=100, seconds=(taken,))
        for side, taken in ((OURS, 1.0), (SENTENCE_TRANSFORMERS, 4.0))
    )
    held = GpuFile(card=Card(name="a card"), engine="cuda", small=False, machine=this_host(), versions={}, parts={"texts": sides})
    (tmp_path / "gpu").mkdir()
    write(tmp_path / "gpu" / "card.json", held)
    monkeypatch.setattr(draw_speed, "RESULTS", tmp_path)
    (panel,) = (panel for panel in draw_speed.panels() if panel.title.startswith("GPU"))
    assert draw_speed.description([panel]).endswith("sentence-transformers, fp16 25, ours 100 (4.0x).")
    assert draw_speed.drawn(draw_speed.panels(), draw_speed.THEMES["light"])


@pytest.mark.parametrize(("ratio", "told"), [(13.99, "13"), (2.58, "2.5"), (1.077, "1.07"), (1.0, "1.00"), (2.0, "2.0"), (0.955, "0.95")])
def test_a_ratio_is_never_rounded_up(ratio: float, told: str) -> None:
    assert bench_report.rounded_down(ratio) == told


@pytest.fixture
def root(tmp_path: Path) -> Path:
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    run = {
        "texts": 32,
        "tokens": 16,
        "threads": 1,
        "rounds": 7,
        "speedups": {"fp32": {"median": 1.5, "quartiles": [1.4, 1.6], "max_abs_difference": 2e-6}},
        "median_ms": {"wrapper": 15.0, "fp32": 10.0},
    }
    (results / "graph.json").write_text(json.dumps(run))
    return tmp_path


def test_a_figure_that_was_typed_is_replaced(root: Path) -> None:
    page = "before\n<!-- bench:begin graph_table graph.json -->\n| cls-export | 9.9 ms | |\n<!-- bench:end -->\nafter\n"
    filled = bench_report.filled(page, root=root)
    assert "| cls-export, fp32 | 10.0 ms | 1.50 | 1.40 to 1.60 | 2.0e-06 |" in filled
    assert "9.9 ms" not in filled
    assert filled.startswith("before\n<!-- bench:begin graph_table graph.json -->\n")
    assert filled.endswith("<!-- bench:end -->\nafter\n")
    assert bench_report.filled(filled, root=root) == filled


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("<!-- bench:begin throughput none.json -->\n<!-- bench:end -->", "none.json is not in benchmarks/results"),
        ("<!-- bench:begin graph_table graph.json -->\n", "without its bench:end"),
        ("<!-- bench:end -->", "without its bench:end"),
        ("<!-- bench:begin graph_table -->\n<!-- bench:end -->", "without its bench:end"),
    ],
)
def test_a_mark_that_cannot_be_filled_in_is_an_error(root: Path, page: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        bench_report.filled(page, root=root)


def test_an_unknown_figure_is_named(root: Path) -> None:
    bench = root / "benchmarks" / "results" / "cls_bench.json"
    bench.write_text((ROOT / "benchmarks" / "results" / "vnni" / "cls_bench.json").read_text())
    with pytest.raises(ValueError, match="has no figure 'speed'; it has throughput"):
        bench_report.filled("<!-- bench:begin speed cls_bench.json -->\n<!-- bench:end -->", root=root)
