"""Colors are for terminals, and nothing else sees them."""

import contextlib
import io

import pytest

from cls_runtime.commands import colors, doctor, shell, verify


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def terminal(monkeypatch):
    """A context that makes both streams of the process one terminal, and gives it."""
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)

    @contextlib.contextmanager
    def both():
        with contextlib.redirect_stdout(Terminal()) as stream, contextlib.redirect_stderr(stream):
            yield stream

    return both


def test_words_are_colored_on_a_terminal(terminal):
    with terminal() as shown:
        shell.say("pass  all", color="green", colored=4)
        shell.say("all of it", color="red")
        shell.say("none of it")
        shell.warn("careful")
        shell.say_error("wrong")
    assert shown.getvalue() == (
        "\x1b[32mpass\x1b[0m  all\n\x1b[31mall of it\x1b[0m\nnone of it\n\x1b[33mwarning:\x1b[0m careful\n\x1b[31merror:\x1b[0m wrong\n"
    )


@pytest.mark.parametrize(("variable", "value", "colored"), [("NO_COLOR", "1", False), ("NO_COLOR", "", True), ("TERM", "dumb", False)])
def test_variables_decide(terminal, monkeypatch, variable, value, colored):
    monkeypatch.setenv(variable, value)
    with terminal() as shown:
        shell.say_error("wrong")
    assert ("\x1b" in shown.getvalue()) == colored


def test_a_stream_that_is_no_terminal_gets_none():
    assert colors.painted("x", "red", io.StringIO()) == "x"
    assert colors.painted("x", "red", None) == "x"
    closed = Terminal()
    closed.close()
    assert colors.painted("x", "red", closed) in ("x", "\x1b[31mx\x1b[0m")  # nothing raised


def test_the_text_cannot_bring_its_own(terminal):
    with terminal() as shown:
        shell.say("\x1b[2Jx", color="red")
    assert shown.getvalue() == "\x1b[31m\\x1b[2Jx\x1b[0m\n"


def test_commands_on_a_terminal(terminal, golden_bundle):
    with terminal() as shown:
        assert verify.main([str(golden_bundle), "--variant", "fp32", "--engine", "onnxruntime"]) == 0
        assert doctor.main(["--quiet"]) == 0
    assert "\x1b[32mpass\x1b[0m  all" in shown.getvalue()
    assert "mOK: " in shown.getvalue()


def test_json_has_none_not_even_its_errors(terminal):
    with terminal() as shown:
        assert verify.main(["./none", "--json"]) == 2
    assert "\x1b" not in shown.getvalue()
    with terminal() as shown:
        assert verify.main(["./none"]) == 2
    assert "\x1b[31merror:" in shown.getvalue()
