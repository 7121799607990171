"""The bar is drawn on a terminal, where tqdm is installed, and nowhere else; what is said to it otherwise costs nothing."""

import io
import sys

import pytest

from cls_runtime import progress_bar
from cls_runtime.progress_bar import ProgressBar


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture(autouse=True)
def every_change_is_drawn(monkeypatch):
    """However fast the test is."""
    monkeypatch.setattr(progress_bar, "REDRAW_SECONDS", 0.0)


def drawn(stream):
    """What the bar looked like, one time after the other."""
    return [" ".join(line.split()) for line in stream.getvalue().split("\r") if line.strip()]


def test_steps_have_names_and_count_when_the_next_one_begins():
    pytest.importorskip("tqdm")
    stream = Terminal()
    with ProgressBar(unit="step", total=3, stream=stream) as bar:
        assert bar.is_drawn
        for step in ("Loading", "Tracing", "Comparing"):
            bar.begin(step)
            assert drawn(stream)[-1].startswith(f"{step}: ")
    assert [line.split("|")[2].split()[0] for line in drawn(stream) if line.startswith("Tracing")][-1] == "1/3"
    assert [line.split("|")[2].split()[0] for line in drawn(stream) if line.startswith("Comparing")][-1] == "2/3"
    assert stream.getvalue().endswith("\r"), "nothing stays on the terminal"


def test_counts_a_note_and_a_better_guess_of_the_total():
    pytest.importorskip("tqdm")
    stream = Terminal()
    with ProgressBar(unit=" rows", done_before=1000, scaled=True, stream=stream) as bar:
        bar.advance(500, note="3 truncated", total=6000)
        assert drawn(stream)[-1].startswith("25%|")
        assert "1.50k/6.00k" in drawn(stream)[-1]
        assert drawn(stream)[-1].endswith("rows/s, 3 truncated]")
        bar.advance(4500, note="4 truncated")
    assert "6.00k/6.00k" in drawn(stream)[-1]


@pytest.mark.parametrize("case", ["no terminal", "not to be shown", "no tqdm"])
def test_there_is_no_bar(monkeypatch, case):
    if case == "no tqdm":
        monkeypatch.setitem(sys.modules, "tqdm", None)
    stream = io.StringIO() if case == "no terminal" else Terminal()
    with ProgressBar(unit="step", total=2, shown=case != "not to be shown", stream=stream) as bar:
        assert not bar.is_drawn
        bar.begin("Loading")
        bar.advance(2, note="note", total=4)
    assert stream.getvalue() == ""


def test_it_is_on_standard_error(monkeypatch, capsys):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar(unit="step", total=2) as bar:
        bar.begin("Loading")
    assert "Loading" in sys.stderr.getvalue()
    assert capsys.readouterr().out == ""
