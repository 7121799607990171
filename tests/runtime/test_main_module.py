"""`python -m cls_runtime COMMAND` is the command's console script."""

import subprocess
import sys

import pytest

from cls_runtime.__main__ import COMMANDS


def run(*arguments):
    return subprocess.run([sys.executable, "-m", "cls_runtime", *arguments], capture_output=True, text=True)


def test_without_a_command_it_lists_them():
    for arguments, code in (((), 2), (("--help",), 0)):
        finished = run(*arguments)
        assert finished.returncode == code
        listed = finished.stderr if code else finished.stdout
        assert all(f"\n  {name} " in listed for name in COMMANDS)
        assert not (finished.stdout if code else finished.stderr)


@pytest.mark.parametrize("name", ["embed", "cls-embed"])
def test_it_runs_a_command(name):
    finished = run(name, "--version")
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("cls-embed ")


def test_an_unknown_command_is_one_line():
    finished = run("verfy")
    assert (finished.returncode, finished.stdout) == (2, "")
    assert finished.stderr == "error: no command 'verfy' (did you mean verify?); see python -m cls_runtime --help\n"
    assert run("\x1b[2J").stderr == "error: no command '\\x1b[2J'; see python -m cls_runtime --help\n"
