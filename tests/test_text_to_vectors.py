"""The benchmark against other projects: its texts, its protocol, and that another model or a broken peer is not timed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from bundle_builder import build_bundle

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def benchmark() -> ModuleType:
    return load(BENCHMARKS / "text_to_vectors.py")


def test_the_built_in_texts_are_sentences_and_the_same_every_time(benchmark: ModuleType) -> None:
    texts = benchmark.docstring_sentences(200)
    assert len(texts) == len(set(texts)) == 200
    assert all(8 <= len(text.split()) <= 40 for text in texts)
    assert texts == benchmark.docstring_sentences(200)


def test_every_peer_has_an_environment_of_exact_versions_and_a_runner(benchmark: ModuleType) -> None:
    for peer in {name.split(":")[0] for name in benchmark.PEERS}:
        lines = (BENCHMARKS / "peers" / peer / "requirements.txt").read_text().splitlines()
        assert lines
        assert all("==" in line for line in lines)
        assert (BENCHMARKS / "peers" / peer / "run.py").is_file()


PROTOCOL = """
import sys
from pathlib import Path
from peer_protocol import sorted_batches
lengths = [3, 50, 7, 7, 1, 20]
batches = sorted_batches(lengths, token_budget=40)
assert sorted(index for batch in batches for index in batch) == list(range(6)), batches
assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 40 for batch in batches), batches
"""


def test_batches_sorted_by_hand_hold_every_text_once_within_the_budget() -> None:
    import subprocess

    subprocess.run([sys.executable, "-c", PROTOCOL], check=True, env={"PYTHONPATH": str(BENCHMARKS / "peers" / "common")})


def test_sides_take_turns_and_a_broken_peer_is_reported(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = build_bundle(tmp_path / "tiny")
    peer = tmp_path / "peers" / "broken"
    peer.mkdir(parents=True)
    (peer / "run.py").write_text("raise SystemExit('no such instruction')")
    for name in ("common", "cls_export"):
        (tmp_path / "peers" / name).symlink_to(BENCHMARKS / "peers" / name)
    monkeypatch.setattr(benchmark, "HERE", tmp_path)
    monkeypatch.setattr(benchmark, "environment", lambda peer, folder: Path(sys.executable))
    result = benchmark.measure(
        bundle,
        tmp_path,
        texts=["the cat sleeps", "a dog runs", "b"],
        ours=["onnxruntime:fp32", "auto:auto"],
        peers=["broken:defaults"],
        threads=1,
        rounds=3,
        folder=tmp_path / "work",
    )
    first, second, broken = result.sides
    assert (first.failed, second.failed, len(first.seconds), len(second.seconds)) == (None, None, 3, 3)
    assert first.mean_cosine == 1.0
    assert broken.failed
    assert "no such instruction" in broken.failed
    assert broken.seconds == []
    assert list(result.ratios) == [first.name, second.name]


def test_another_model_is_not_timed(benchmark: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "LEAST_MEAN_COSINE", 1.1)
    result = benchmark.measure(
        build_bundle(tmp_path / "tiny"),
        tmp_path,
        texts=["the cat sleeps"],
        ours=["onnxruntime:fp32"],
        peers=[],
        threads=1,
        rounds=1,
        folder=tmp_path,
    )
    assert "another model, not timed" in result.sides[0].failed
    assert result.sides[0].seconds == []
