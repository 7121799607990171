"""Two runs of `cls-bench` on one machine agree on ratios, or nobody could believe either."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cls_runtime.bench.figures import ratio, timings
from cls_runtime.bench.results import BenchResults, read_results

AGREE = 0.10
TRIES = 3


def quick_run(bundle: Path, out: Path) -> BenchResults:
    command = [sys.executable, "-m", "cls_runtime.commands.bench", str(bundle), "--quick", "--engine", "onnxruntime", "--rounds", "9"]
    done = subprocess.run([*command, "--json", str(out)], capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return read_results(out)


def int8_over_fp32(results: BenchResults) -> float:
    """How many times as fast int8 is as fp32, the model alone."""
    sides = [timings(results, "model_only", f"{variant} on onnxruntime")[0] for variant in ("int8", "fp32")]
    return ratio(*sides).median


@pytest.mark.slow
@pytest.mark.timing
def test_two_runs_agree_on_ratios_within_ten_percent(minilm: Path, tmp_path: Path) -> None:
    """Two thorough runs, text to vector: 1.60 and 1.63, though a neighbour halved the speed of the second.

    A neighbour that takes a core in one run and not in the other is not the benchmark's fault: the best of three pairs counts.
    """
    from cls_exporter import ExportConfig, export

    bundle = tmp_path / "minilm"
    export(str(minilm), bundle, config=ExportConfig(precisions=("fp32", "int8"), allow_pooling_mismatch=True))
    found: list[tuple[float, float]] = []
    while len(found) < TRIES:
        first, second = (int8_over_fp32(quick_run(bundle, tmp_path / f"{len(found)}-{index}.json")) for index in range(2))
        found.append((first, second))
        if abs(first / second - 1) <= AGREE:
            assert min(first, second) > 1
            return
    pytest.fail(f"int8 over fp32 in pairs of runs: {found}, expected a pair within {AGREE:.0%}")
