"""The scripts behind the speed figures: they hold what the documentation claims, and they check parity before they time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import cls_graph_speed
import numpy as np
import onnxruntime
import pytest

RESULTS = Path(__file__).resolve().parent.parent / "benchmarks" / "results"


def test_the_batch_is_real_text_without_padding(minilm: Path) -> None:
    batch = cls_graph_speed.real_batch(minilm, texts=32, tokens=32)
    assert {name: array.shape for name, array in batch.items()} == dict.fromkeys(
        ["input_ids", "attention_mask", "token_type_ids"], (32, 32)
    )
    assert batch["attention_mask"].all()
    assert len(np.unique(batch["input_ids"], axis=0)) == 32
    assert len(np.unique(batch["input_ids"])) > 300


@pytest.mark.parametrize(
    ("features", "set_to"),
    [(frozenset({"avx2"}), "1"), (None, "1"), (frozenset({"avx2", "avx512_vnni"}), ""), (frozenset({"avx2", "avx_vnni"}), "")],
    ids=["AVX2 only", "unknown", "AVX512-VNNI", "AVX-VNNI"],
)
def test_int8_is_timed_on_the_kernels_that_the_runtime_takes(features: frozenset[str] | None, set_to: str) -> None:
    """Without it int8 saturates on AVX2, and the script refused its own graph there: mean cosine 0.9986."""
    options = cls_graph_speed.session_options(features, threads=1)
    assert entry(options, "session.x64quantprecision") == set_to
    assert options.intra_op_num_threads == 1


def entry(options: onnxruntime.SessionOptions, key: str) -> str:
    """A configuration entry; empty where it is not set."""
    try:
        return str(options.get_session_config_entry(key))
    except RuntimeError:
        return ""


class SpeedLimit(NamedTuple):
    """How many times as fast as the wrapper a graph has to be, 32 texts of 32 tokens on one thread."""

    bar: float  # on a machine that does nothing else: what `make bench` records
    floor: float  # on any day: a neighbour takes cache and memory bandwidth, of which int8 needs more for what it computes


SPEED_LIMITS: dict[str, dict[str, SpeedLimit]] = {
    "all-MiniLM-L6-v2": {"fp32": SpeedLimit(1.12, 1.05), "int8": SpeedLimit(3.6, 2.9)},
    "bert-base": {"fp32": SpeedLimit(1.07, 1.02), "int8": SpeedLimit(2.9, 2.3)},
    "two-layer": {"fp32": SpeedLimit(1.4, 1.25)},
}


@pytest.mark.parametrize(("model", "file"), [("all-MiniLM-L6-v2", "graph_speed_minilm.json"), ("bert-base", "graph_speed_bert_base.json")])
def test_the_recorded_speed_reaches_the_bars(model: str, file: str) -> None:
    """Issues 3 and 4. What the documentation quotes is read from these files (tests/test_bench_report.py)."""
    run = json.loads((RESULTS / file).read_text(encoding="utf-8"))
    assert (run["texts"], run["tokens"], run["threads"]) == (32, 32, 1)
    recorded = {precision: speedup["median"] for precision, speedup in run["speedups"].items()}
    assert recorded.keys() == SPEED_LIMITS[model].keys()
    assert all(recorded[precision] >= limit.bar for precision, limit in SPEED_LIMITS[model].items()), recorded


@pytest.mark.slow
@pytest.mark.timing
@pytest.mark.timeout(600)  # bert-base's shape takes 170 s, of which two minutes are its int8 export
@pytest.mark.parametrize("model", SPEED_LIMITS)
def test_the_speed_of_every_shape_does_not_fall(model: str, minilm: Path, tmp_path: Path) -> None:
    """Against the floors. MiniLM's int8 was 3.75 on a quiet machine and 3.12 to 3.43 on a busy one; the best of three counts."""
    limits = SPEED_LIMITS[model]
    checkpoint = minilm if model == "all-MiniLM-L6-v2" else cls_graph_speed.random_checkpoint(tmp_path / model, model)
    graphs = cls_graph_speed.export_graphs(checkpoint, tmp_path, precisions=list(limits))
    found: list[dict[str, float]] = []
    for _ in range(3):
        speedups = cls_graph_speed.measure(graphs, rounds=8 if model == "bert-base" else 30).speedups
        found.append({precision: speedup.median for precision, speedup in speedups.items()})
        if all(found[-1][precision] >= limit.floor for precision, limit in limits.items()):
            return
    pytest.fail(f"no run of three reached {limits}: {found}")


BERT_BASE = """
import json, resource, sys, time
from cls_exporter import ExportConfig, export
from cls_runtime.bench.resident import peak_bytes

start = time.perf_counter()
report = export(sys.argv[1], sys.argv[2])
used = resource.getrusage(resource.RUSAGE_SELF)
figures = {"seconds": time.perf_counter() - start, "cpu_seconds": used.ru_utime + used.ru_stime, "peak_bytes": peak_bytes()}
print(json.dumps({**figures, "steps": dict(report.seconds)}))
"""


@pytest.mark.slow
@pytest.mark.timing
def test_the_export_of_bert_base(tmp_path: Path) -> None:
    """Issue 3: with all checks in 90 s and 6 GB on two cores. The CPU time of both cores stands in where the machine is not idle."""
    checkpoint = cls_graph_speed.random_checkpoint(tmp_path / "bert-base", "bert-base")
    command = [sys.executable, "-c", BERT_BASE, str(checkpoint), str(tmp_path / "bundle")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert min(figures["seconds"], figures["cpu_seconds"] / 2) < 90, figures
    assert figures["peak_bytes"] < 6e9, figures


@pytest.mark.slow
def test_graphs_that_differ_are_not_timed(minilm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_graph = cls_graph_speed.open_graph

    def off_by_a_little(path: Path, *arguments: object, **options: object) -> object:
        run = open_graph(path, *arguments, **options)
        return (lambda: run() + 1e-3) if path.name == "wrapper.onnx" else run

    monkeypatch.setattr(cls_graph_speed, "open_graph", off_by_a_little)
    graphs = cls_graph_speed.export_graphs(minilm, tmp_path, precisions=["fp32"])
    with pytest.raises(RuntimeError, match="the fp32 graph differs from the wrapper"):
        cls_graph_speed.measure(graphs, rounds=1)
