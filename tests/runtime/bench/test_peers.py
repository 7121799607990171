"""The comparison with other projects, with peers made here: parity first, turns, and every way for a peer to fail is in the result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bundle_builder import build_bundle, write_manifest

from cls_runtime.bench import peer_environments, peer_sides, peers
from cls_runtime.bench.peer_environments import PeerError, converted, default_environments, environment, interpreter, own_source, run_once
from cls_runtime.bench.peer_process import PeerProcess
from cls_runtime.bench.peers import PEERS, PeerComparison, compare_with_peers, comparison_steps, side_names
from cls_runtime.bench.texts import calibration_sentences, docstring_sentences
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import Pooling
from cls_runtime.errors import EngineError, UsageError

PROGRAMS = Path(__file__).resolve().parents[3] / "benchmarks" / "peers"
TEXTS = ["cat", "dog", "the", "runs"]

# Peers that read the bundle as their checkpoint, and note each call with the texts in a file beside it.
SAME = """
from peer_protocol import arguments, serve
from cls_runtime import Encoder
options = arguments()
encoder = Encoder.load(options.checkpoint, engine="onnxruntime", variant="fp32", threads=1)
WARM_UP = ["a text", "another text that is a little longer"]
def embed(texts):
    if texts != WARM_UP:
        with open(options.checkpoint.parent / "turns.txt", "a") as file:
            file.write(f"{options.settings}:{''.join(texts)} ")
    return encoder.encode(texts)
serve(embed, settings=f"way {options.settings}", packages=["numpy"])
"""
# Makes the vectors of every token's row, padded, as peers do that give no vectors of their own.
POOLS = """
from peer_protocol import arguments, pooled, serve
import numpy as np
from cls_runtime import Encoder
options = arguments()
encoder = Encoder.load(options.checkpoint, engine="onnxruntime", variant="fp32", threads=1)
def embed(texts):
    rows = encoder.encode(texts, output="tokens")
    padded, mask = np.full((len(rows), 16, rows[0].shape[1]), 9, np.float32), np.zeros((len(rows), 16), np.float32)
    for index, row in enumerate(rows):
        padded[index, : len(row)], mask[index, : len(row)] = row, 1
    return pooled(padded, mask, options.pooling)
serve(embed, settings=options.pooling, packages=["numpy"])
"""
PEER_PROGRAMS = {
    "same": SAME,
    "other": SAME.replace("return encoder.encode(texts)", "return -encoder.encode(texts)"),
    "wider": SAME.replace("return encoder.encode(texts)", "return encoder.encode(texts).repeat(2, axis=1)"),
    "raw": SAME.replace(
        "encoder.encode(texts)", "encoder.encode(texts, normalize=False, prompt='', dimensions=encoder.manifest.hidden_size)"
    ),
    "pools": POOLS,
    "first_row": POOLS.replace("options.pooling)", "'cls')"),
    "broken": "import sys; print('a line before', file=sys.stderr); raise SystemExit('no such instruction')",
    "dies": SAME.replace("return", "calls.append(texts)\n    if len(calls) > 3: raise SystemExit('out of memory')\n    return").replace(
        "def embed", "calls = []\ndef embed"
    ),
}


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return build_bundle(tmp_path / "tiny")


@pytest.fixture
def fake_peers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the peers' programs: this project's own, and those above; they run in this environment."""
    folder = tmp_path / "programs"
    for name, program in PEER_PROGRAMS.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "run.py").write_text(program)
    for name in ("common", "cls-export"):
        (folder / name).symlink_to(PROGRAMS / name)
    monkeypatch.setattr(peer_environments, "programs", lambda: folder)
    monkeypatch.setattr(peer_sides, "programs", lambda: folder)
    monkeypatch.setattr(peer_environments, "environment", lambda peer, home, limit_s: Path(sys.executable))
    monkeypatch.setattr(peers, "PEERS", dict.fromkeys(PEER_PROGRAMS, ("a", "b")))
    return folder


def measure(
    bundle: Path,
    *against: str,
    rounds: int = 3,
    ours: tuple[str, ...] = ("onnxruntime:fp32",),
    progress: Callable[[str], None] = lambda _: None,
) -> PeerComparison:
    return compare_with_peers(
        bundle,
        checkpoint=bundle,
        texts=TEXTS,
        peers=against,
        ours=ours,
        calibration=["c"],
        threads=1,
        rounds=rounds,
        environments=bundle.parent / "environments",
        progress=progress,
    )


def test_sides_take_turns_and_every_sample_is_kept(bundle: Path, fake_peers: Path) -> None:
    told: list[str] = []
    result = measure(bundle, "same", progress=told.append)
    assert told == list(comparison_steps([side.name for side in result.sides], rounds=3))
    ours, a, b = result.sides
    assert [side.name for side in result.sides] == ["cls-export:onnxruntime:fp32", "same:a", "same:b"]
    assert [side.failed for side in result.sides] == [None] * 3
    turns = (bundle.parent / "turns.txt").read_text().split()
    parity, rounds = turns[:2], turns[2:]
    assert parity == ["a:catdogtheruns", "b:catdogtheruns"]
    assert rounds == ["a:dogtheruns", "b:dogtheruns", "b:cattheruns", "a:cattheruns", "a:catdogruns", "b:catdogruns"]
    assert [len(side.seconds) for side in result.sides] == [3, 3, 3]
    assert (a.settings, b.settings, set(a.versions)) == ("way a", "way b", {"numpy"})
    assert a.texts_per_second == pytest.approx(3 / sorted(a.seconds)[1])
    ratios = {ratio.theirs: ratio for ratio in result.ratios}
    assert list(ratios) == ["same:a", "same:b"]
    of_rounds = sorted(theirs / mine for mine, theirs in zip(ours.seconds, a.seconds, strict=True))
    assert (ratios["same:a"].low, ratios["same:a"].median, ratios["same:a"].high) == pytest.approx(tuple(of_rounds))
    assert (result.texts, result.round_texts, result.threads, result.reference) == (4, (3, 3, 3), 1, "cls-export:onnxruntime:fp32")
    assert result.mean_tokens == pytest.approx(3, abs=1)  # a word, [CLS] and [SEP]; "runs" is one of the vocabulary too


@pytest.mark.parametrize(("peer", "reason"), [("other", "mean cosine -1.0000"), ("wider", "vectors of shape (4, 16)")])
def test_a_peer_with_other_vectors_is_not_timed(peer: str, reason: str, bundle: Path, fake_peers: Path) -> None:
    result = measure(bundle, f"{peer}:a", "same:a")
    _, other, same = result.sides
    assert other.failed
    assert reason in other.failed
    assert "another model, not timed" in other.failed
    assert (other.seconds, other.texts_per_second) == ((), None)
    assert same.parity
    assert same.parity.mean_cosine == pytest.approx(1)
    assert [ratio.theirs for ratio in result.ratios] == ["same:a"]


def test_a_broken_peer_is_reported_with_its_last_line_and_the_others_go_on(bundle: Path, fake_peers: Path) -> None:
    result = measure(bundle, "broken:a", "dies:a", "same:a")
    _, broken, dies, same = result.sides
    assert broken.failed == "did not load its model, ended with exit code 1: no such instruction"
    assert dies.failed == "did not embed the texts, ended with exit code 1: out of memory"
    assert (broken.texts_per_second, dies.texts_per_second, len(dies.seconds)) == (None, None, 1)
    assert (same.failed, len(same.seconds)) == (None, 3)
    assert [ratio.theirs for ratio in result.ratios] == ["same:a"]


def test_pytorchs_vectors_are_the_reference_where_they_are(bundle: Path, fake_peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PYTORCH", "other")
    result = measure(bundle, "other:a", rounds=1)
    ours, other = result.sides
    assert result.reference == "other:a"
    assert other.failed is None
    assert ours.failed
    assert "another model, not timed" in ours.failed


def test_fp32_is_the_reference_though_it_is_not_timed(bundle: Path, fake_peers: Path) -> None:
    told: list[str] = []
    result = measure(bundle, "same:a", rounds=1, ours=("onnxruntime:auto",), progress=told.append)
    assert told == list(comparison_steps(["cls-export:onnxruntime:auto", "same:a"], rounds=1))
    assert result.reference == "cls-export:auto:fp32"
    assert [side.name for side in result.sides] == ["cls-export:onnxruntime:auto", "same:a"]


def test_nothing_to_compare_with_is_an_error(bundle: Path, fake_peers: Path) -> None:
    (bundle / "onnx" / "model.onnx").write_bytes(bytes((bundle / "onnx" / "model.onnx").stat().st_size))
    with pytest.raises(EngineError, match=r"no vectors to compare with: cls-export:auto:fp32 .*is not a graph"):
        measure(bundle, "same:a")


@pytest.mark.parametrize(
    ("ours", "against", "message"),
    [
        (["auto:auto"], ["tensorflow"], "unknown peer 'tensorflow'; expected one of transformers, sentence-transformers"),
        (["auto:auto"], ["fastembed:fast"], "unknown peer 'fastembed:fast'; expected one of fastembed:fp32, fastembed:int8"),
        (["int8"], ["fastembed"], "'int8' is not engine:variant"),
        (["auto:auto"], [], "nothing to compare"),
    ],
)
def test_what_cannot_be_compared_is_an_error(ours: list[str], against: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        side_names(ours, against)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_peers_pool_as_the_bundle_does(pooling: Pooling, tmp_path: Path, fake_peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "LEAST_MEAN_COSINE", 0.99)  # the rows of this small model are alike, 0.97
    result = measure(build_bundle(tmp_path / "rows", pooling=pooling, token_rows=True), "pools:a", "first_row:a", rounds=1)
    _, pools, first_row = result.sides
    assert (result.pooling, pools.settings, pools.failed) == (pooling, pooling, None)
    assert pools.parity
    assert pools.parity.max_abs < 1e-6
    assert (first_row.failed is None) == (pooling == "cls")
    assert first_row.failed is None or "another model, not timed" in first_row.failed


def test_vectors_are_those_of_the_texts_alone_whatever_the_model_is_used_like(tmp_path: Path, fake_peers: Path) -> None:
    used_like = {"prompts": {"query": "the "}, "default_prompt_name": "query", "truncate_dim": 4, "matryoshka_dims": (4,)}
    _, raw, same = measure(build_bundle(tmp_path / "used", pooling="mean", normalize=True, **used_like), "raw:a", "same:a", rounds=1).sides
    assert raw.failed is None
    assert raw.parity
    assert raw.parity.max_abs < 1e-6
    assert same.failed
    assert "vectors of shape (4, 4)" in same.failed


def test_a_bundle_with_dense_layers_is_refused(bundle: Path) -> None:
    manifest = Bundle.open(bundle).manifest
    dense = replace(manifest.source_pooling, dense=("2_Dense: 8 to 8, Tanh",))
    write_manifest(bundle, replace(manifest, source_pooling=dense, fingerprint=""))
    with pytest.raises(
        UsageError, match="the peers' programs end with the pooling, this bundle's vectors go through Dense layers after it"
    ):
        compare_with_peers(bundle, checkpoint=bundle, texts=["a"], peers=["fastembed"])


def test_a_name_given_twice_is_one_side() -> None:
    assert side_names(["auto:auto"], ["optimum:int8", "optimum"]) == [
        "cls-export:auto:auto",
        "optimum:int8",
        "optimum:fp32",
        "optimum:int8_sorted",
    ]


# ---------------------------------------------------------------- the peers' programs


@pytest.mark.parametrize("peer", [*PEERS, "cls-export"])
def test_every_peer_has_a_runner_and_an_environment_of_exact_versions(peer: str) -> None:
    lines = (PROGRAMS / peer / "requirements.txt").read_text().splitlines()
    assert lines
    assert all("==" in line for line in lines)
    runner = (PROGRAMS / peer / "run.py").read_text()
    for way in PEERS.get(peer, ()):
        precision = way.partition("_")[0]
        assert precision in runner, f"{peer}/run.py does not know {way}"
    if peer in PEERS:
        convert = PROGRAMS / peer / "convert.py"
        programs = runner + (convert.read_text() if convert.exists() else "")
        assert "options.pooling" in programs, f"{peer} does not pool as it is told"


def test_pytorchs_loop_gives_the_vectors_of_a_mean_bundle(
    minilm: Path, minilm_mean_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_environments, "environment", lambda peer, home, limit_s: Path(sys.executable))
    result = compare_with_peers(
        minilm_mean_bundle,
        checkpoint=minilm,
        texts=docstring_sentences(6),
        peers=["transformers:as_given"],
        ours=["onnxruntime:fp32"],
        threads=1,
        rounds=1,
        environments=tmp_path,
    )
    ours, loop = result.sides
    assert (result.pooling, result.reference, ours.failed, loop.failed) == ("mean", "transformers:as_given", None, None)
    assert ours.parity
    assert ours.parity.max_abs < 1e-5


def test_a_checkout_has_the_programs() -> None:
    assert peer_environments.programs() == PROGRAMS


# In a process of its own: the module takes standard output for its answers when it is imported.
PROTOCOL = """
import json, sys
from peer_protocol import sorted_batches
print(json.dumps(sorted_batches({lengths}, token_budget=40)), file=sys.stderr)
"""


def test_batches_sorted_by_hand_hold_every_text_once_within_the_budget() -> None:
    lengths = [3, 50, 7, 7, 1, 20]
    environment = {**os.environ, "PYTHONPATH": str(PROGRAMS / "common")}
    command = [sys.executable, "-W", "ignore", "-c", PROTOCOL.format(lengths=lengths)]
    batches = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stderr)
    assert sorted(index for batch in batches for index in batch) == list(range(6))
    assert all(len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= 40 for batch in batches)
    assert len(batches) < len(lengths)


def test_calibration_texts_are_as_many_as_wanted_and_hardly_ever_timed() -> None:
    calibration = calibration_sentences(320)
    assert len(set(calibration)) == 320
    assert len(set(calibration) & set(docstring_sentences(3000))) < 16  # phrases that the library uses in several places


# ---------------------------------------------------------------- environments and converted files


def test_a_peer_that_cannot_be_installed_is_reported(bundle: Path, fake_peers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fake_peers / "same" / "requirements.txt").write_text("--no-index\ncls-export-is-no-peer==1.0\n")
    monkeypatch.setattr(peer_environments, "environment", environment)
    _, side = measure(bundle, "same:a", rounds=1).sides
    assert side.failed
    assert side.failed.startswith("cannot be installed: ERROR: No matching distribution found for cls-export-is-no-peer==1.0")
    assert not (bundle.parent / "environments" / "same" / "environment" / "requirements.txt").exists()


def test_an_environment_is_made_once_and_again_for_other_versions(
    fake_peers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[str] = []

    def note(command: list[str], failure: str, *, limit_s: float) -> None:
        commands.append(" ".join(command[1:3]))
        (tmp_path / "same" / "environment" / "bin").mkdir(parents=True, exist_ok=True)
        (tmp_path / "same" / "environment" / "bin" / "python").touch()

    monkeypatch.setattr(peer_environments, "run_once", note)
    for version in ("1", "1", "2"):
        (fake_peers / "same" / "requirements.txt").write_text(f"numpy=={version}\n")
        environment("same", tmp_path, limit_s=1)
    assert commands == ["-m venv", "-m pip"] * 2


def test_an_engine_that_is_not_here_runs_in_an_environment_of_its_own(
    fake_peers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_environments, "environment", lambda peer, folder, limit_s: folder / peer / "python")
    monkeypatch.setattr(peer_environments, "is_importable", lambda package: package == "onnxruntime")
    assert interpreter("cls-export", "openvino:int8", tmp_path, limit_s=1) == tmp_path / "cls-export" / "python"
    for settings in ("onnxruntime:int8", "auto:auto", "cuda:fp16"):
        assert interpreter("cls-export", settings, tmp_path, limit_s=1) == Path(sys.executable)
    source = own_source(tmp_path / "python", tmp_path)
    assert sorted(path.name for path in source.iterdir()) == ["cls_runtime"]
    assert (source / "cls_runtime" / "encoder.py").exists()


CONVERT = (
    "from peer_protocol import arguments\noptions = arguments()\nopen(options.work / 'model', 'w').write(options.calibration.read_text())\n"
)


def test_a_peers_files_are_made_once_for_each_checkpoint_pooling_and_calibration(bundle: Path, fake_peers: Path, tmp_path: Path) -> None:
    (fake_peers / "same" / "convert.py").write_text(CONVERT)

    def convert(*calibration: str, pooling: Pooling = "cls") -> Path:
        return converted(
            "same",
            Path(sys.executable),
            tmp_path / "kept",
            checkpoint=bundle,
            max_length=16,
            pooling=pooling,
            calibration=calibration,
            limit_s=600,
        )

    first = convert("a")
    (first / "model").write_text("as it was")
    assert convert("a") == first
    assert (first / "model").read_text() == "as it was"
    assert (convert("b") / "model").read_text() == '["b"]'
    assert convert("a", pooling="mean") != first
    os.utime(bundle / "tokenizer.json", (1, 1))
    assert convert("a") != first


def test_a_peer_never_calibrates_on_a_text_that_is_timed(bundle: Path, fake_peers: Path) -> None:
    (fake_peers / "same" / "convert.py").write_text(CONVERT)
    compare_with_peers(
        bundle,
        checkpoint=bundle,
        texts=TEXTS,
        peers=["same:a"],
        ours=["onnxruntime:fp32"],
        calibration=["a text", TEXTS[0]],
        threads=1,
        rounds=1,
        environments=bundle.parent / "environments",
    )
    (made,) = (bundle.parent / "environments" / "same").iterdir()
    assert (made / "model").read_text() == '["a text"]'


def test_files_that_cannot_be_made_leave_nothing(bundle: Path, fake_peers: Path) -> None:
    (fake_peers / "same" / "convert.py").write_text("raise SystemExit('no converter for this model')")
    _, side = measure(bundle, "same:a", rounds=1).sides
    assert side.failed == "cannot be converted: no converter for this model"
    assert [path.suffix for path in (bundle.parent / "environments" / "same").iterdir()] == [".unfinished"]


def test_time_is_bounded_for_every_step(tmp_path: Path) -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    with pytest.raises(PeerError, match="cannot be installed: not done after 0 s"):
        run_once(sleep, "cannot be installed", limit_s=0.3)
    with pytest.raises(PeerError, match="did not load its model within 0 s"):
        PeerProcess(sleep, environment=os.environ, log=tmp_path / "log", limit_s=0.3)


def test_the_environments_are_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_environments() == tmp_path / "cls-export" / "peers"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_environments() == Path.home() / ".cache" / "cls-export" / "peers"


def test_vectors_are_compared_as_they_were_given(bundle: Path, fake_peers: Path) -> None:
    parity = measure(bundle, "same:a", rounds=1).sides[1].parity
    assert parity
    assert parity.texts == len(TEXTS)
    assert np.isclose(parity.max_abs, 0, atol=1e-6)
