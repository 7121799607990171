"""The table of peers: its lines name real sides, a ratio below its bar says so, and the documentation has what the results files give."""

from __future__ import annotations

from pathlib import Path

import pytest
import text_to_vectors
from bundle_builder import build_bundle

from cls_runtime.bench.peer_sides import PeerSide
from cls_runtime.bench.peers import PEERS, PeerComparison, SpeedRatio, side_names
from cls_runtime.bench.results import Host, write_samples
from cls_runtime.bundle.manifest import Pooling

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = sorted((BENCHMARKS / "results").glob("*/peers_*.json"))
HOST = Host(
    system="", machine="", cpu="", cpu_features=(), cpus=2, usable_cpus=2, cpu_quota=None, memory_bytes=None, python="", versions={}
)


def comparison(speeds: dict[str, float | None], *, pooling: Pooling = "cls") -> PeerComparison:
    """A comparison of sides with these texts a second; None failed."""
    sides = [
        PeerSide(name=name, versions={}, texts_per_second=speed, failed=None if speed else "no such instruction")
        for name, speed in speeds.items()
    ]
    ours = [side for side in sides if side.name.startswith("cls-export") and side.texts_per_second]
    theirs = [side for side in sides if not side.name.startswith("cls-export") and side.texts_per_second]
    ratios = [
        SpeedRatio(ours=a.name, theirs=b.name, median=a.texts_per_second / b.texts_per_second, low=0.5, high=20.0)
        for a in ours
        for b in theirs
    ]
    return PeerComparison(
        texts=1, mean_tokens=25.0, threads=2, pooling=pooling, reference=sides[-1].name, sides=tuple(sides), ratios=tuple(ratios)
    )


def test_every_side_in_the_table_exists_and_every_peer_is_in_it() -> None:
    theirs = {name for line in text_to_vectors.LINES for name in line.theirs}
    ours = {f"cls-export:{item}" for item in text_to_vectors.OUR_SIDES}
    assert theirs == set(side_names(text_to_vectors.OUR_SIDES, list(PEERS))) - ours
    assert all(name.startswith((text_to_vectors.ONNX_RUNTIME, text_to_vectors.OPENVINO)) for name in ours)


def test_a_line_takes_our_fastest_side_and_says_where_its_bar_is_missed() -> None:
    measured = text_to_vectors.Measured(
        model=text_to_vectors.MINILM,
        host=HOST,
        comparisons=(
            comparison({"cls-export:onnxruntime:int8": 900.0, "cls-export:openvino:int8": 1200.0, "openvino:int8_sorted": 1000.0}),
            comparison({"cls-export:onnxruntime:fp32": 300.0, "cls-export:onnxruntime:int8": 1000.0, "transformers:as_given": 100.0}),
            comparison({"cls-export:onnxruntime:int8": 1000.0, "fastembed:int8": None}),
        ),
    )
    rows = {row.split("|")[1].strip(): row for row in text_to_vectors.table(measured).splitlines()}
    assert "openvino:int8 1200, openvino:int8_sorted 1000" in rows["the same, sorted by hand, two streams"]
    assert rows["the same, sorted by hand, two streams"].endswith("**1.20** (0.50 to 20.00) | 1.15 |")
    assert rows["ONNX Runtime alone against that OpenVINO"].endswith("**0.90** (0.50 to 20.00) | 1: missed |")
    assert "**10.00**" in rows["the usual transformers loop, fp32"]
    assert "transformers:as_given 100" in rows["fp32 against the fastest fp32 peer"]
    assert "**3.00**" in rows["fp32 against the fastest fp32 peer"]
    assert "not timed: no such instruction" in rows["fastembed, int8 file"]
    assert "not timed: not measured" in rows["optimum, int8"]


def test_mean_pooling_has_no_bars_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    speeds: dict[str, float | None] = {"cls-export:onnxruntime:int8": 900.0, "transformers:as_given": 300.0}
    mean = text_to_vectors.Measured(model="m", host=HOST, comparisons=(comparison(speeds, pooling="mean"),))
    write_samples(tmp_path / "mean.json", mean)
    assert text_to_vectors.main(["--show", str(tmp_path / "mean.json")]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("m, mean pooling:\n")
    assert "**3.00** (0.50 to 20.00) |  |" in shown
    cls = text_to_vectors.Measured(model="m", host=HOST, comparisons=(comparison(speeds),))
    assert (cls.title, "**3.00** (0.50 to 20.00) | 7.5: missed |" in text_to_vectors.table(cls)) == ("m", True)


def test_a_file_holds_figures_of_one_pooling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    speeds: dict[str, float | None] = {"cls-export:onnxruntime:int8": 900.0, "transformers:as_given": 300.0}
    bundle, file = build_bundle(tmp_path / "mean", pooling="mean"), tmp_path / "peers.json"
    monkeypatch.setattr(text_to_vectors, "compare_with_peers", lambda *_, **__: comparison(speeds, pooling="mean"))
    write_samples(file, text_to_vectors.Measured(model="m", host=HOST, comparisons=(comparison(speeds),)))
    given = [str(bundle), "--checkpoint", str(tmp_path), "--json", str(file), "--peers", "transformers"]
    with pytest.raises(SystemExit, match="2"):
        text_to_vectors.main(given)
    assert "has figures of cls pooling, the bundle's is mean; name another file" in capsys.readouterr().err
    file.unlink()
    assert text_to_vectors.main(given) == 0
    assert text_to_vectors.read(file).pooling == "mean"


def test_there_are_results() -> None:
    assert "peers_minilm" in [path.stem for path in RESULTS]


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_documentation_has_the_table_of_the_results(path: Path) -> None:
    measured = text_to_vectors.read(path)
    assert text_to_vectors.table(measured) in (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert all(side.failed is None for item in measured.comparisons for side in item.sides), "a peer failed: mend it or say so here"
