"""`make demo` runs, and what it says of its neighbours is looked up and not only printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import demo
import numpy as np
import pytest

from cls_runtime.bundle.manifest import read_manifest


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The demo with a folder of the test's own in the place of the checkout."""
    monkeypatch.setattr(demo, "ROOT", tmp_path)
    monkeypatch.setattr(demo, "WORK", tmp_path / "build" / "demo")
    return tmp_path


@pytest.mark.slow
def test_the_demo_exports_the_models_own_pooling_and_finds_the_right_neighbours(
    elsewhere: Path, minilm: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert demo.main() == 0
    said = capfd.readouterr().out
    assert "cls-export build/demo/all-MiniLM-L6-v2 -o models/demo --force" in said  # no other flag
    first, second = (read_manifest(elsewhere / bundle) for bundle in (demo.BUNDLE, demo.CLS_BUNDLE))
    assert (first.pooling, second.pooling) == ("mean", "cls")
    assert second.prompts == {"query": demo.PROMPT, "document": ""}
    assert f"All {len(demo.SENTENCES)} sentences found a neighbour of their own topic" in said
    saved = re.search(r"multiply-adds, (\d+)% less", said)
    assert saved is not None
    assert int(saved[1]) > 30  # 49% for two layers
    told = re.search(r"differs by (\S+) at most from .*behind the\nprompt, and by (\S+) from", said)
    assert told is not None
    assert float(told[1]) <= 1e-6 < 1e-4 < float(told[2])


def test_a_neighbour_of_another_topic_fails_the_demo(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = np.eye(len(demo.SENTENCES), dtype=np.float32)
    assert demo.wrong_neighbours(rows)
    topics = np.repeat(np.eye(len(demo.TOPICS), dtype=np.float32), [len(topic) for topic in demo.TOPICS], axis=0)
    assert demo.wrong_neighbours(topics) == []
    swapped = topics.copy()
    swapped[[0, 2]] = swapped[[2, 0]]
    assert set(demo.wrong_neighbours(swapped)) == set(demo.SENTENCES[:4])

    def stands_in(command: str, *arguments: str) -> float:
        if command == "cls-embed":
            np.save(elsewhere / arguments[-1], swapped)
        return 0.0

    monkeypatch.setattr(demo, "run", stands_in)
    assert demo.main() == 1
    assert "is nearest to a sentence of another topic" in capsys.readouterr().out


def test_the_checkpoint_that_pools_by_cls_is_made_of_the_real_one(elsewhere: Path, minilm: Path) -> None:
    folder = demo.cls_checkpoint(minilm)
    assert json.loads((folder / "config.json").read_text())["num_hidden_layers"] == demo.LAYERS
    pooling = json.loads((folder / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode_cls_token"] is True
    assert pooling["pooling_mode_mean_tokens"] is False
    kept, source = demo.load_file(folder / "model.safetensors"), demo.load_file(minilm / "model.safetensors")
    assert {name.split(".")[2] for name in kept if name.startswith("encoder.layer.")} == {str(index) for index in range(demo.LAYERS)}
    assert all(np.array_equal(tensor, source[name]) for name, tensor in kept.items())
