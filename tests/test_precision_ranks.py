"""The script that compares a bundle's variants by ranks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import precision_ranks
import pytest


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([1, 2, 3, 4], [10, 20, 25, 1000], 1.0),
        ([1, 2, 3, 4], [4, 3, 2, 1], -1.0),
        ([1, 2, 2, 3], [1, 2, 3, 4], 0.9486833),  # ties share 2.5: the correlation of (1, 2.5, 2.5, 4) and (1, 2, 3, 4)
        ([1, 2, 3, 4, 5], [2, 1, 4, 3, 5], 0.8),  # 1 - 6 * 4 / (5 * 24)
    ],
)
def test_spearman_is_the_correlation_of_ranks(first: list[int], second: list[int], expected: float) -> None:
    assert precision_ranks.spearman(np.array(first, dtype=float), np.array(second, dtype=float)) == pytest.approx(expected, abs=1e-6)


def test_every_variant_is_held_against_fp32(minilm_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text(
        "\n".join(f"text {index} about {word}" for index, word in enumerate("cats dogs rain trains".split() * 4))
    )
    (tmp_path / "pairs.csv").write_text('"a cat, asleep",a sleeping cat,5\na cat,the train is late,0\nrain falls,it is raining,4\n')
    arguments = [str(minilm_bundle), "--texts", str(tmp_path / "texts.txt"), "--pairs", str(tmp_path / "pairs.csv")]
    assert precision_ranks.main(arguments) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["texts"], document["pairs"]) == (16, 3)
    figures = document["variants"]["fp32"]
    assert (figures["mean_cosine"], figures["neighbours_mean"], figures["neighbours_neighbours"]) == (1.0, 1.0, 10)
    assert figures["spearman"] == pytest.approx(1.0)


def test_what_is_no_bundle_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "texts.txt").write_text("a\n")
    assert precision_ranks.main([str(tmp_path / "nowhere"), "--texts", str(tmp_path / "texts.txt")]) == 2
    assert capsys.readouterr().err.startswith("error: bundle ")
