"""benchmarks/gpu.py on a CPU, part by part, and what the documentation says where there are results and where there are none."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import bench_report
import gpu
import pytest
from on_gpu.results import OURS, SENTENCE_TRANSFORMERS, TORCH, Card, GpuFile, Samples

from cls_runtime.bench.machine import this_host
from cls_runtime.bench.texts import docstring_sentences

ROOT = Path(__file__).resolve().parent.parent
RECORDED = sorted((ROOT / "benchmarks" / "results" / "gpu").glob("*.json"))
H100 = Card(name="NVIDIA H100 80GB HBM3", memory_bytes=80 * 2**30, compute_capability="9.0", driver="580.1", cuda="13.0")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch")
    from checkpoints import make_checkpoint

    return make_checkpoint(tmp_path_factory.mktemp("gpu") / "checkpoint")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the bundles are made, once for all tests here."""
    return tmp_path_factory.mktemp("gpu_models")


def run(given: Sequence[str], *, checkpoint: Path, models: Path) -> int:
    """The script as its help says, on the CPU."""
    on_cpu = ["--engine", "onnxruntime", "--small", "--rounds", "2", "--checkpoint", str(checkpoint), "--models", str(models)]
    return gpu.main([*on_cpu, *given])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_part_runs_and_is_kept_as_it_is_done(
    checkpoint: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sentence_transformers")
    file = tmp_path / "new" / "cpu.json"
    first = ["export", "limit", "texts"]
    assert run(["--json", str(file), "--only", *first], checkpoint=checkpoint, models=models) == 0
    held = gpu.read(file)
    assert list(held.parts) == first
    assert {(item.work, item.side) for item in held.of("texts")} == {
        (work, side) for work in ("bert-base, 25 tokens", "MiniLM, 60 tokens") for side in (OURS, SENTENCE_TRANSFORMERS, TORCH)
    }
    assert all(len(item.seconds) == 2 and item.tokens > item.texts > 0 and item.multiply_adds > 0 for item in held.of("texts"))
    assert all(item.figures["mean_cosine"] > 0.999 for item in held.of("texts") if item.side != OURS)

    others = [part for part in gpu.PARTS if part not in first]
    assert run(["--json", str(file), "--only", *others], checkpoint=checkpoint, models=models) == 0
    held = gpu.read(file)
    assert list(held.parts) == list(held.measured) == [*first, *others]
    assert not [item for samples in held.parts.values() for item in samples if item.failed]
    assert {item.at for item in held.of("model")} == {1, 2, 4}
    assert {item.side: item.figures["max_abs"] <= 1e-5 for item in held.of("precisions")} == {"fp16": False, "fp32": True}
    (memory,) = held.of("memory")
    assert (len(memory.held_bytes), memory.texts) == (10, 20)
    capsys.readouterr()
    assert gpu.main(["--show", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "| bert-base, 25 tokens |" in shown
    assert "one text at a time, MiniLM, cls-export: p50" in shown
    assert gpu.missed(held) == [], "nothing of a small run counts"


@pytest.mark.gpu
def test_every_part_runs_on_a_gpu(checkpoint: Path, models: Path, tmp_path: Path) -> None:
    if not pytest.importorskip("torch").cuda.is_available():
        pytest.skip("no CUDA device")
    pytest.importorskip("sentence_transformers")
    file = tmp_path / "gpu.json"
    assert run(["--json", str(file), "--engine", "cuda"], checkpoint=checkpoint, models=models) == 0
    held = gpu.read(file)
    assert set(held.parts) == set(gpu.PARTS)
    assert not [item for samples in held.parts.values() for item in samples if item.failed]
    assert {item.side for item in held.of("one")} == {OURS, f"{OURS} without CUDA graphs"}
    assert {item.side for item in held.of("precisions")} == {"fp16", "fp32", "tf32"}
    assert held.card.memory_bytes > 0


@pytest.mark.slow
def test_a_bundle_without_a_checkpoint_has_no_peers(checkpoint: Path, models: Path, tmp_path: Path) -> None:
    """And a file is added to only by the card that it is of."""
    file = tmp_path / "cpu.json"
    assert run(["--json", str(file), "--only", "export"], checkpoint=checkpoint, models=models) == 0
    given = ["--engine", "onnxruntime", "--small", "--rounds", "1", "--bundle", str(models / "MiniLM" / "bundle"), "--models", str(models)]
    assert gpu.main([*given, "--json", str(file), "--only", "texts"]) == 0
    sides = {item.side for item in gpu.read(file).of("texts", work="MiniLM, 60 tokens")}
    assert sides == {OURS}
    gpu.write(file, replace(gpu.read(file), card=H100))
    assert gpu.main([*given, "--json", str(file), "--only", "limit"]) == 2


def test_an_encoder_is_loaded_without_cuda_graphs() -> None:
    from on_gpu import sides

    graphs = pytest.importorskip("cls_runtime.engines.cuda.graphs")
    most = graphs.MOST_GRAPHS
    assert most > 0
    with sides.without_cuda_graphs(contextlib.nullcontext):  # type: ignore[arg-type]
        assert graphs.MOST_GRAPHS == 0
    assert most == graphs.MOST_GRAPHS


@pytest.mark.slow
def test_texts_have_the_length_that_was_asked_for(checkpoint: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from on_gpu import models as made
    from on_gpu.models import MINILM, Tokens, prepared, random_lengths

    sentences = docstring_sentences(300)
    monkeypatch.setattr(made, "_real_sentences", lambda _: sentences)

    bundle = prepared(MINILM, models, checkpoint=checkpoint, bundle=None, small=True).bundle
    tokens = Tokens(bundle)
    texts = tokens.texts(60, 7)
    assert (len(set(texts)), set(tokens.lengths(texts))) == (7, {60})
    assert set(tokens.lengths(tokens.texts(4_000, 3))) == {64}, "the model takes no more"
    short = tokens.texts(25, 2_000)
    assert len(short) == 2_000
    assert len(set(short)) > 1_990, "words in another order are another text"
    assert {len(text.split()) for text in short} <= set(range(10, 33))
    counts = [len(text.split()) for text in random_lengths(500, longest_words=30)]
    assert (min(counts), max(counts)) == (1, 30)
    assert list(random_lengths(5, longest_words=9)) == list(random_lengths(5, longest_words=9))


def recorded(speeds: dict[str, float], *, p50_ms: float = 0.3, fp32: float = 2e-6, growth: float = 0.0, card: Card = H100) -> GpuFile:
    """A file of a card whose works have these speeds, and twice those of the peers."""

    def samples(work: str, side: str, speed: float) -> Samples:
        return Samples(work=work, side=side, texts=100, tokens=2_500, multiply_adds=10**9, seconds=(100 / speed,) * 3)

    held = GpuFile(card=card, engine="cuda", small=False, machine=this_host(), versions={"torch": "2.13"})
    parts = {
        "limit": (Samples(work="product", side="torch", multiply_adds=10**12, seconds=(2e-3, 1e-3)),),
        "texts": tuple(
            samples(work, side, speed / times)
            for work, speed in speeds.items()
            for side, times in ((OURS, 1), (SENTENCE_TRANSFORMERS, 2), (TORCH, 4))
        ),
        "model": tuple(replace(samples(work, "model alone", 1.5 * speed), at=2) for work, speed in speeds.items()),
        "one": (Samples(work="MiniLM", side=OURS, texts=1, seconds=(p50_ms / 1e3,) * 5),),
        "precisions": (
            replace(samples("MiniLM, 25 tokens", "fp32", 500.0), figures={"max_abs": fp32}),
            replace(samples("MiniLM, 25 tokens", "fp16", 500.0), figures={"min_cosine": 0.99999}),
        ),
        "memory": (replace(samples("MiniLM", OURS, 500.0), held_bytes=(1000, 1000, int(1000 * (1 + growth)))),),
    }
    return replace(held, parts=parts, measured=dict.fromkeys(parts, "2026-11-27 12:00"))


REACHED = {
    "bert-base, 25 tokens": 61_000.0,
    "bert-base, 512 tokens": 3_500.0,
    "MiniLM, 25 tokens": 101_000.0,
    "MiniLM, 256 tokens": 15_500.0,
}


def test_what_reaches_every_bar_misses_none() -> None:
    assert gpu.missed(recorded(REACHED)) == []


@pytest.mark.parametrize(
    ("held", "line"),
    [
        (recorded({**REACHED, "bert-base, 512 tokens": 3_399.0}), "bert-base, 512 tokens: 3,399 texts/s, expected at least 3,400"),
        (
            recorded({"bert-base, 25 tokens": 61_000.0, "bert-base, 512 tokens": 3_500.0, "MiniLM, 25 tokens": 101_000.0}),
            "MiniLM, 256 tokens: 0",
        ),
        (recorded(REACHED, p50_ms=0.6), "one text of MiniLM: p50 0.60 ms"),
        (recorded(REACHED, fp32=7.3e-4), "fp32: max abs 7.3e-04, expected at most 5.0e-05"),
        (recorded(REACHED, growth=0.1), "memory: grew by [0.1"),
    ],
)
def test_a_missed_bar_is_named(held: GpuFile, line: str) -> None:
    (found,) = gpu.missed(held)
    assert found.startswith(line)


def test_another_card_has_no_bars() -> None:
    held = recorded({"MiniLM, 25 tokens": 5.0}, card=replace(H100, name="NVIDIA T4"))
    assert gpu.missed(held) == []
    assert gpu.throughput(held).rows[0][-1] == ""


def test_the_table_says_ratios_and_the_limit() -> None:
    """100 texts are 1e9 multiply-adds, of which the fastest product does 1e15 a second."""
    row = dict(zip(gpu.throughput(recorded(REACHED)).header, gpu.throughput(recorded(REACHED)).rows[0], strict=True))
    assert row["cls-export"] == "**61,000**"
    assert row["times sentence-transformers"] == "2.0 (2.0 to 2.0)"
    assert row["times torch"] == "4.0 (4.0 to 4.0)"
    assert (row["model alone"], row["limit"], row["bar"]) == ("91,500", "100,000,000", "60,000")


def test_a_page_is_filled_in_with_and_without_a_results_file(tmp_path: Path) -> None:
    page = "<!-- bench:begin gpu gpu/h100.json -->\n<!-- bench:end -->\n"
    assert f"\n{bench_report.NOT_MEASURED}\n" in bench_report.filled(page, root=tmp_path)
    gpu.write(tmp_path / "benchmarks" / "results" / "gpu" / "h100.json", recorded(REACHED))
    filled = bench_report.filled(page, root=tmp_path)
    assert bench_report.NOT_MEASURED not in filled
    assert "- card: NVIDIA H100 80GB HBM3, 80 GiB, compute capability 9.0" in filled
    assert "| MiniLM, 256 tokens | 7,750 | 3,875 | **15,500** |" in filled
    assert "- one text at a time, MiniLM, cls-export: p50 0.30 ms" in filled


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    gpu.write(tmp_path / "a.json", recorded(REACHED))
    assert gpu.read(tmp_path / "a.json") == recorded(REACHED)
    (tmp_path / "a.json").write_text(json.dumps({"card": 1}))
    with pytest.raises(ValueError, match=r"a\.json"):
        gpu.read(tmp_path / "a.json")


@pytest.mark.skipif(not RECORDED, reason="not recorded: run benchmarks/gpu.py on a GPU with --json")
def test_the_recorded_figures_of_a_gpu_reach_the_bars() -> None:
    assert {path.stem: gpu.missed(gpu.read(path)) for path in RECORDED} == {path.stem: [] for path in RECORDED}
