"""The small scripts of benchmarks/ do what their help says: each runs here on a tiny bundle, so a moved module cannot break one unseen."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import corpus_job
import engines
import full_batches
import memory
import merging_turns
import pytest
import text_to_vectors
from bundle_builder import build_bundle

from cls_runtime.bench.results import write_samples

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
RESULTS = BENCHMARKS / "results" / "vnni"
SCRIPTS = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("scripts") / "tiny")


@pytest.mark.parametrize("name", SCRIPTS)
def test_every_script_explains_itself(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(name).main()
    assert f"usage: {name}.py" in capsys.readouterr().out


def test_engines_are_timed_after_their_vectors_agree(bundle: Path) -> None:
    result = engines.measure(bundle, engines=["onnxruntime"], variants=["fp32"], threads=1, texts=4, rounds=3)
    (side,) = result.sides
    assert (side.engine, side.variant, side.mean_cosine, len(side.seconds)) == ("onnxruntime", "fp32", 1.0, 3)
    assert f"fp32  onnxruntime  {4 / sorted(side.seconds)[1]:7.0f} texts/s" in engines.report(result)[1]


def test_every_size_of_a_full_batch_has_every_round(bundle: Path) -> None:
    samples = full_batches.measure(bundle, sides=["onnxruntime:fp32"], sizes=[16, 64], texts=["the cat", "a dog runs"] * 4, rounds=3)
    assert {side: {size: len(seconds) for size, seconds in by_size.items()} for side, by_size in samples.items()} == {
        "onnxruntime:fp32": {16: 3, 64: 3}
    }


def test_every_phase_of_merging_has_samples(bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """And each is printed."""
    monkeypatch.setattr(
        sys, "argv", ["merging_turns.py", str(bundle), "--variant", "fp32", "--bulk", "64", "--seconds", "0.05", "--rounds", "1"]
    )
    merging_turns.main()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 10
    assert [line.split("  ")[0] for line in lines if "bulk" in line] == [
        "bulk alone, texts/s",
        "singles beside a bulk, ms",
        "singles beside a bulk, ms (the bulk's texts/s)",
    ]


@pytest.mark.parametrize(("last_mib", "exit_code"), [(104, 0), (106, 1)])
def test_memory_that_grew_by_more_than_a_twentieth_is_exit_code_1(
    last_mib: int, exit_code: int, bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sizes are made here: before anything is loaded, after the one block that so few texts are, and at the end."""
    sizes_mib = iter([100, 100, last_mib])
    monkeypatch.setattr(memory, "resident_bytes", lambda: next(sizes_mib) * memory.MIB)
    monkeypatch.setattr(memory, "SETTLED_TEXTS", 50)
    monkeypatch.setattr(sys, "argv", ["memory.py", str(bundle), "--texts", "200", "--threads", "1"])
    assert memory.main() == exit_code
    assert f"after 50 texts 100.0 MiB, at the end {last_mib}.0 MiB" in capsys.readouterr().out


def test_memory_is_not_measured_where_the_system_does_not_say(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(memory, "resident_bytes", lambda: 0)
    monkeypatch.setattr(sys, "argv", ["memory.py", "no-bundle"])
    with pytest.raises(SystemExit, match="2"):
        memory.main()
    assert "has no /proc" in capsys.readouterr().err


def test_samples_are_written_as_they_are_read(tmp_path: Path) -> None:
    """The recorded files were written so: the peers' are dataclasses, the jobs' plain values."""
    peers = RESULTS / "peers_minilm.json"
    write_samples(tmp_path / "new" / "peers.json", text_to_vectors.read(peers))
    written = (tmp_path / "new" / "peers.json").read_text()
    assert written.replace('   "pooling": "cls",\n', "") == peers.read_text()  # it was recorded when there was no other
    jobs = RESULTS / "corpus_job_throughput.json"
    write_samples(tmp_path / "jobs.json", json.loads(jobs.read_text()))
    assert (tmp_path / "jobs.json").read_text() == jobs.read_text()


def options(**given: object) -> argparse.Namespace:
    return argparse.Namespace(**{"rounds": 2, "variant": "fp32", "docstrings": False, "options": ["--variant", "fp32"], **given})


def test_a_job_is_measured_beside_its_inference(bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = corpus_job.throughput(bundle, tmp_path, options(rows=40))
    assert 30 < result["texts"] <= 40
    assert {name: len(runs) for name, runs in result["runs"].items()} == {"encode": 2, "job": 2}
    assert {kind: len(ratios) for kind, ratios in result["job_to_encode"].items()} == {"seconds": 2, "cpu_seconds": 2}
    assert result["computed_with"] == ["fp32 on onnxruntime"]


def test_a_job_is_measured_at_every_size(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(corpus_job, "SAMPLE_SECONDS", 0.02)
    result = corpus_job.scaling(bundle, tmp_path, options(sizes=[10, 20], rounds=1))
    assert result["rows"] == [10, 20]
    assert [len(runs) for runs in result["cpu_seconds"]] == [1, 1]
    assert len(result["factor_of_each_doubling"]["cpu_seconds"]) == 1
    assert not list(tmp_path.glob("out*"))


def test_a_jobs_memory_is_told_by_tenths(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pyarrow")
    monkeypatch.setattr(corpus_job, "SAMPLE_SECONDS", 0.02)
    result = corpus_job.memory(bundle, tmp_path, options(rows=30))
    assert (result["rows"], len(result["peak_mb_by_tenth"])) == (30, 10)
    assert json.loads(json.dumps(result)) == result


def test_a_corpus_is_the_same_every_time_and_repeats_itself() -> None:
    made = list(corpus_job.sentences(400))
    assert made == list(corpus_job.sentences(400))
    assert 0.03 < 1 - len(set(made)) / len(made) < 0.3  # a tenth of the rows, and what chance makes twice
    repeated = list(corpus_job.with_repeats(iter(["a", "b", "c"]), 20, 0.5))
    assert len(repeated) == 20
    assert list(dict.fromkeys(repeated)) == ["a", "b", "c"]
