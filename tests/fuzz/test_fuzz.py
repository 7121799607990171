"""Fuzzing: whatever a file holds or a command line says, it is read, or refused in one line.

`make test` takes a few examples of each target, the same every time; `make fuzz` goes on with new ones until it is stopped or has found
something. What it finds is written to `build/fuzz/TARGET/`; once it is mended, the file goes to `corpus/TARGET/`, and is read in every run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from command_lines import COMMANDS, arguments_of
from hub_server import Hub, Repository
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from targets import TARGETS, Target, outcome

FOUND = Path(__file__).resolve().parents[2] / "build" / "fuzz"
LONGEST_ERROR = 2500  # 2000 characters of a message, and what is written out of them

pytestmark = pytest.mark.timeout(300)
slow_to_draw = settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize(("target", "path"), [(target, path) for target in TARGETS for path in target.corpus()], ids=lambda item: item.name)
def test_the_corpus_is_read_or_refused(target: Target, path: Path) -> None:
    assert_one_line(outcome(target, target.content(path)))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_good_inputs_are_read(target: Target) -> None:
    assert [outcome(target, data) for data in target.seeds()] == ["read"] * len(target.seeds())


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
@slow_to_draw
@given(data=st.data())
def test_mutations_are_read_or_refused(target: Target, data: st.DataObject) -> None:
    drawn = data.draw(target.inputs())
    try:
        assert_one_line(outcome(target, drawn))
    except BaseException:
        folder = FOUND / target.name
        folder.mkdir(parents=True, exist_ok=True)
        (folder / hashlib.sha256(drawn).hexdigest()[:16]).write_bytes(drawn)
        raise


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
@slow_to_draw
@given(data=st.data())
def test_command_lines_end_in_an_exit_code(
    command: str, data: st.DataObject, hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/name"] = Repository()
    main: Callable[[Sequence[str]], int] = COMMANDS[command]()
    place = tmp_path / "here" / "and" / "now"  # relative names, and those that go up, stay below this test's folder
    place.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(place)
    written, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.redirect_stderr(told):
        code = main(data.draw(arguments_of(command, place)))
    assert code in (0, 1, 2)
    errors = [line for line in told.getvalue().splitlines() if line.startswith("error: ")]
    assert len(errors) == (0 if code == 0 else 1) or code == 1  # a failed check may be told by the report alone
    assert all(len(line) < LONGEST_ERROR and line.isprintable() for line in errors)


def assert_one_line(message: str) -> None:
    """What a user is told; its control characters are taken out where it is printed."""
    assert len(message) < LONGEST_ERROR
    assert "\n" not in message
