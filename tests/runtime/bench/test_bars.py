"""Figures and the bars that they are held to, and the file that keeps them from one run to the next."""

from __future__ import annotations

import dataclasses

import pytest

from cls_runtime import UsageError
from cls_runtime.bench.bars import BarRecord, Figure, bars_table, empty_bars, measure_bars, missed_bars, read_bars

EMPTY = empty_bars(fingerprint="f" * 64, variant="int8", cpus="pinned apart")


def record(value, *, quick=False):
    figures = (Figure(name="p99", value=value, unit="ms", most=20), Figure(name="capacity", value=1234.0, unit="texts/s"))
    return BarRecord(test="a test", figures=figures, how="for a second", quick=quick)


@pytest.mark.parametrize(
    ("figure", "holds", "words"),
    [
        (Figure(name="p99", value=20.0, unit="ms", most=20), True, "p99 20 ms (at most 20)"),
        (Figure(name="p99", value=20.01, unit="ms", most=20), False, "p99 20.0 ms (at most 20), missed"),
        (Figure(name="share", value=0.9, least=0.9), True, "share 0.90 (at least 0.9)"),
        (Figure(name="share", value=0.899, least=0.9), False, "share 0.90 (at least 0.9), missed"),
        (Figure(name="p99", value=None, unit="ms", most=20), False, "p99 unknown ms (at most 20), missed"),
        (Figure(name="p99", value=None, unit="ms"), True, "p99 unknown ms"),
        (Figure(name="difference", value=1.9e-6, most=4e-6), True, "difference 1.9e-06 (at most 4e-06)"),
        (Figure(name="requests", value=500_000), True, "requests 500,000"),
    ],
)
def test_a_figure_holds_at_its_bar_and_says_where_it_misses(figure, holds, words):
    assert (figure.holds, figure.words) == (holds, words)


def test_each_bar_is_written_at_once_and_later_runs_add_to_the_file(tmp_path):
    path, said = tmp_path / "results" / "serving.json", []

    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_bars({"first": lambda: record(5.0), "second": fail}, path=path, empty=EMPTY, say=said.append)
    assert list(read_bars(path).bars) == ["first"]
    assert not measure_bars({"second": lambda: record(50.0)}, path=path, empty=EMPTY, say=said.append)
    assert measure_bars({"third": lambda: record(6.0, quick=True)}, path=path, empty=EMPTY, say=said.append)
    held = read_bars(path)
    assert list(held.bars) == ["first", "second", "third"]
    assert held.bars["first"].measured
    assert missed_bars(held) == ["second: p99 50 ms (at most 20), missed", "third: measured with --quick"]
    assert [line for line in said if line.startswith(("holds", "MISSED"))] == [
        "holds   first (0 s): for a second",
        "MISSED  second (0 s): for a second",
        "holds   third (0 s, quick): for a second",
    ]
    table = bars_table(held, ["third", "first"])
    assert table.rows[:2] == (("a test (for a second)", "p99", "6 ms", "at most 20"), ("", "capacity", "1,234 texts/s", ""))
    assert [row[1:] for row in table.rows[::2]] == [
        ("p99", "6 ms", "at most 20"),
        ("p99", "5 ms", "at most 20"),
        ("p99", "50 ms", "at most 20: **missed**"),
    ]


@pytest.mark.parametrize("change", [{"fingerprint": "e" * 64}, {"variant": "fp32"}, {"cpus": "shared"}])
def test_figures_of_another_bundle_or_machine_are_not_mixed_in(tmp_path, change):
    path = tmp_path / "serving.json"
    measure_bars({"first": lambda: record(5.0)}, path=path, empty=EMPTY, say=lambda _: None)
    before = path.read_text()
    other = dataclasses.replace(EMPTY, **change)
    with pytest.raises(UsageError, match="name another file, or remove that one"):
        measure_bars({"first": lambda: pytest.fail("measured")}, path=path, empty=other, say=lambda _: None)
    assert path.read_text() == before


@pytest.mark.parametrize("text", ["", "[]", '{"machine": 1}', "{"])
def test_another_file_is_refused(tmp_path, text):
    path = tmp_path / "serving.json"
    path.write_text(text)
    with pytest.raises(UsageError, match="is no file of bars"):
        read_bars(path)
