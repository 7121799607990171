"""The script behind the table of docs/guides/vector-index.md."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import vector_index
from golden_bundle import build_golden_bundle


def test_every_index_is_held_against_fp32(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = build_golden_bundle(tmp_path / "tiny")
    texts = [f"{first} {second} {number}" for first in ("the cat", "dog") for second in ("runs", "sleeps") for number in range(25)]
    (tmp_path / "corpus.txt").write_text("\n".join([*texts, *texts[:3]]))
    (tmp_path / "queries.txt").write_text("\n".join([*texts[:20], "xyz"]))
    arguments = [str(bundle), "--corpus", str(tmp_path / "corpus.txt"), "--queries", str(tmp_path / "queries.txt")]
    assert vector_index.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["texts"], document["queries"], document["neighbours"]) == (101, 21, 10)
    figures = document["indexes"]
    assert {name: figure["bytes"] for name, figure in figures.items()} == {
        "float32": 32,
        "int8": 8,
        "int8, ranges of the corpus": 8,
        "ubinary": 1,
        "ubinary, 40 rescored by int8": 9,
        "ubinary, 40 rescored by float32": 33,
        "ubinary, 100 rescored by int8": 9,
        "ubinary, 100 rescored by float32": 33,
    }
    recall = {name: figure["recall"] for name, figure in figures.items()}
    assert recall["float32"] == 1
    assert 0.8 < recall["int8, ranges of the corpus"] < 1
    assert recall["ubinary"] < recall["ubinary, 40 rescored by float32"] < recall["ubinary, 100 rescored by float32"] == 1  # of 101 texts
    assert recall["ubinary, 40 rescored by int8"] <= recall["ubinary, 40 rescored by float32"]


def test_a_query_is_none_of_its_own_neighbours_and_the_best_come_first() -> None:
    rows = np.array([[1, 0], [0.9, 0.1], [0, 1], [-1, 0]], dtype=np.float32)
    found = vector_index.nearest(rows[:2], rows, np.array([0, 1]), count=3)
    np.testing.assert_array_equal(found, [[1, 2, 3], [0, 2, 3]])
    again = vector_index.rescored(rows[:1], rows, np.array([[3, 2, 1]]))
    np.testing.assert_array_equal(again, [[1, 2, 3]])


def test_what_is_no_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("a\n")
    texts = str(tmp_path / "texts.txt")
    assert vector_index.main([str(tmp_path / "nowhere"), "--corpus", texts, "--queries", texts]) == 2
    assert capsys.readouterr().err.startswith("error: bundle ")
