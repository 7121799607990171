import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import warnings

import pytest

from cls_runtime import errors
from cls_runtime.commands import shell
from cls_runtime.commands.parsing import command_parser


def parser():
    examples = [("cls-demo x", "does x"), ("cls-demo longer", "does more")]
    return command_parser("cls-demo", "A demo.", examples=examples, works_alone=True)


def run(command, argv=()):
    return shell.run_command(parser(), command, list(argv))


def raising(error):
    def command(arguments):
        raise error

    return command


def every_error():
    kinds = [errors.ClsError]
    for kind in kinds:
        kinds += kind.__subclasses__()
    return [kind for kind in kinds if kind.__module__ == "cls_runtime.errors"]


@pytest.mark.parametrize("kind", every_error())
def test_every_error_is_one_line_and_its_exit_code(kind, capsys):
    error = kind("went\nwrong", index=1) if kind is errors.InvalidVectorError else kind("went\nwrong")
    assert run(raising(error)) == kind.exit_code
    captured = capsys.readouterr()
    assert captured.err == "error: went wrong\n"
    assert captured.out == ""


# What somebody else may have put into a name, a path, or an error: (text, what is printed of it).
OBEYED = [
    ("\x1b]0;title\x07", r"\x1b]0;title\x07"),
    ("\x1b[2J\x1b[31m", r"\x1b[2J\x1b[31m"),
    ("\x9b2J\x84", r"\x9b2J\x84"),
    ("a\x00\x08\x7f", r"a\x00\x08\x7f"),
    ("\u202ecod.exe\u2066\u200f", r"\u202ecod.exe\u2066\u200f"),
    ("zero\u200bwidth\ufeff\xad", r"zero\u200bwidth\ufeff\xad"),
    ("\udce9\ud800", r"\udce9\ud800"),
    ("\U000e0041", r"\U000e0041"),
    ("grün 日本 🙂 ñ", "grün 日本 🙂 ñ"),
]


@pytest.mark.parametrize(("text", "printed"), OBEYED)
def test_a_terminal_shows_what_it_would_obey(text, printed, capsys):
    def command(arguments):
        shell.say(f"said {text}")
        shell.say(f"\nafter an empty line {text}")
        shell.warn(f"warned {text}")
        for line in shell.table_lines([(f"cell {text}", "next"), ("", "cell")]):
            shell.say(line)
        warnings.warn(f"python warned {text}", errors.TruncationWarning, stacklevel=1)
        raise errors.BundleError(f"failed {text}")

    assert run(command) == 2
    captured = capsys.readouterr()
    indent = " " * (len(printed) + 9)
    assert captured.out == f"said {printed}\n\nafter an empty line {printed}\n  cell {printed}  next\n{indent}cell\n"
    assert captured.err == f"warning: warned {printed}\nwarning: python warned {printed}\nerror: failed {printed}\n"


def test_arguments_and_paths_are_printable_too(capsys):
    assert run(raising(AssertionError()), ["--\x1b[2J"]) == 2
    assert run(raising(PermissionError(13, "Permission denied", "a\x1b[2J\nb"))) == 2
    assert capsys.readouterr().err == ("error: unknown option --\\x1b[2J; see cls-demo --help\nerror: a\\x1b[2J b: Permission denied\n")


def test_no_text_makes_a_second_line_or_a_long_one(capsys):
    assert run(raising(errors.BundleError("start " + "x" * 10**6 + " end"))) == 2
    shell.warn("start " + "\x1b" * 10**6 + " end")
    shell.say("pass\nFAIL\r" + "x" * 10**6)
    captured = capsys.readouterr()
    lines = captured.err.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert len(line) < 10_000
        assert "start" in line
        assert line.endswith("end")
    assert captured.out.startswith("pass\\nFAIL\\rxxx")
    assert len(captured.out) < 10_000


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
        (PermissionError(13, "Permission denied", "secret.txt"), 2, "error: secret.txt: Permission denied\n"),
        (OSError(28, "No space left on device"), 2, "error: No space left on device\n"),
        (
            FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"),
            2,
            "error: No usable temporary directory found in ['/tmp']; set TMPDIR to a folder that can be written\n",
        ),
        (MemoryError(), 2, "error: out of memory; give the process more memory, or less work at a time\n"),
        (
            MemoryError("Unable to allocate 9 GiB"),
            2,
            "error: out of memory (Unable to allocate 9 GiB); give the process more memory, or less work at a time\n",
        ),
    ],
)
def test_what_the_system_raises_is_one_line_too(error, code, line, capsys):
    assert run(raising(error)) == code
    assert capsys.readouterr().err == line


def test_a_working_directory_that_is_gone_is_named(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run(lambda _: len(os.path.realpath("relative"))) == 2
    assert capsys.readouterr().err == "error: the working directory no longer exists; change to another, or use absolute paths\n"


class PanicError(BaseException):
    """What a library in Rust raises is not an Exception."""


BUG = "this is a bug, please report it with the traceback that CLS_EXPORT_TRACEBACK=1 in the environment shows"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ZeroDivisionError(), "ZeroDivisionError"),
        (RecursionError("maximum recursion depth\nexceeded"), "RecursionError (maximum recursion depth exceeded)"),
        (
            UnicodeEncodeError("utf-8", "\ud800", 0, 1, "no"),
            "UnicodeEncodeError ('utf-8' codec can't encode character '\\ud800' in position 0: no)",
        ),
        (PanicError("index"), "PanicError (index)"),
        (GeneratorExit(), "GeneratorExit"),
    ],
)
def test_a_bug_is_one_line_and_its_traceback_is_had_for_the_asking(error, said, capsys, monkeypatch):
    monkeypatch.delenv("CLS_EXPORT_TRACEBACK", raising=False)
    assert run(raising(error)) == 2
    assert capsys.readouterr().err == f"error: unexpected {said}; {BUG}\n"
    monkeypatch.setenv("CLS_EXPORT_TRACEBACK", "1")
    assert run(raising(error)) == 2
    told = capsys.readouterr().err
    assert told.startswith("Traceback (most recent call last)")
    assert "in command\n" in told
    assert told.endswith(f"error: unexpected {said}; {BUG}\n")


class Broken(io.StringIO):
    """Standard error whose reader has gone away."""

    def write(self, text):
        raise BrokenPipeError(32, "Broken pipe")


def test_what_cannot_be_said_does_not_end_the_work(monkeypatch, capsys):
    def command(arguments):
        shell.warn("a warning")
        warnings.warn("another", errors.TruncationWarning, stacklevel=1)
        shell.say("done")
        return 0

    monkeypatch.setattr(sys, "stderr", Broken())
    assert run(command) == 0
    assert capsys.readouterr().out == "done\n"


def test_a_poor_encoding_of_standard_error_is_no_silence(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stderr", stream)
    assert run(raising(errors.UsageError("grün"))) == 2
    stream.flush()
    assert stream.buffer.getvalue() == b"error: gr\\xfcn\n"


def test_help_and_version_exit_0_and_a_wrong_option_exits_2(capsys):
    assert run(raising(AssertionError()), ["--help"]) == 0
    text = capsys.readouterr().out
    assert "examples:\n  cls-demo x        does x\n  cls-demo longer   does more" in text
    assert "exit codes:" in text
    assert run(raising(AssertionError()), ["--version"]) == 0
    assert capsys.readouterr().out.startswith("cls-demo ")
    assert run(raising(AssertionError()), ["--jso"]) == 2
    assert capsys.readouterr().err == "error: unknown option --jso (did you mean --json?); see cls-demo --help\n"


def test_the_command_gives_the_exit_code(capsys):
    assert run(lambda arguments: 1 if arguments.json else 0, ["--json"]) == 1


def test_sigterm_unwinds_the_stack_and_the_old_handler_comes_back(capsys):
    unwound = []

    def command(arguments):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            signal.pause()
        finally:
            unwound.append(True)

    before = signal.getsignal(signal.SIGTERM)
    assert run(command) == 143
    assert unwound == [True]
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_command_runs_in_any_thread():
    codes = []
    thread = threading.Thread(target=lambda: codes.append(run(lambda arguments: 0)))
    thread.start()
    thread.join()
    assert codes == [0]


def test_a_reader_that_goes_away_is_no_traceback():
    program = (
        "import sys; from cls_runtime.commands import shell\n"
        "from cls_runtime.commands.parsing import command_parser\n"
        "def command(arguments):\n    for number in range(100000): shell.say('line')\n    return 0\n"
        "sys.exit(shell.run_command(command_parser('x', 'x', examples=[('x', 'x')], works_alone=True), command, []))"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


def test_json_is_one_ascii_document(capsys):
    shell.print_json({"text": "ä\ud800", "value": 1.5})
    text = capsys.readouterr().out
    assert text.isascii()
    assert json.loads(text) == {"text": "ä\ud800", "value": 1.5}
    with pytest.raises(ValueError, match="Out of range"):
        shell.print_json(float("nan"))


def test_say_survives_a_poor_encoding(monkeypatch):
    output = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    shell.say("grün 🙂")
    output.flush()
    assert output.buffer.getvalue() == b"gr\\xfcn \\U0001f642\n"


def test_texts_and_tables_for_people():
    assert shell.shorten("short\n") == repr("short\n")
    assert shell.shorten("x" * 100, 10) == repr("x" * 9 + "…")
    assert shell.table_lines([("a", "bb"), ("ccc", "")]) == ["  a    bb", "  ccc"]


TABLE = (
    shell.Requirement(
        options=("--size", "--loud", "--kind b"),
        need="--into FOLDER, which has room",
        is_met=lambda arguments: arguments.into is not None,
        instead=lambda _: "no --into",
    ),
)


@pytest.mark.parametrize(
    ("argv", "refused"),
    [
        ([], None),
        (["--into", "x", "--size", "1", "--loud", "--kind", "b"], None),
        (["--kind", "a"], None),
        (["--size", "0"], "--size goes"),
        (["--size", ""], "--size goes"),
        (["--loud"], "--loud goes"),
        (["--kind", "b"], "--kind b goes"),
        (["--size", "1", "--loud"], "--size, --loud go"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(argv, refused, capsys):
    demo = parser()
    for option in ("--size", "--kind", "--into"):
        demo.add_argument(option)
    demo.add_argument("--loud", action="store_true")

    def command(arguments):
        shell.check_requirements(arguments, TABLE)
        return 0

    assert shell.run_command(demo, command, argv) == (0 if refused is None else 2)
    error = "" if refused is None else f"error: {refused} with --into FOLDER, which has room; found no --into\n"
    assert capsys.readouterr().err == error


@pytest.mark.parametrize("command", ["embed", "verify", "bench"])
def test_options_of_the_tables_exist_and_are_not_given_by_default(command):
    module = importlib.import_module(f"cls_runtime.commands.{command}")
    known = {string: action for action in module._parser()._actions for string in action.option_strings}
    options = [option for row in module._REQUIREMENTS for option in row.options]
    assert options
    for option in options:
        name, _, value = option.partition(" ")
        assert known[name].dest == name.removeprefix("--").replace("-", "_")
        assert known[name].default != value if value else known[name].default in (None, False)
