"""Completion scripts, run by the shells that they are for."""

import shutil
import subprocess
import sys

import pytest

from cls_runtime.commands import completion, embed

EXPORTER = "cls_exporter.command"


def script(shell, module="cls_runtime.commands.embed"):
    pytest.importorskip("shtab")
    program = f"import sys; from {module} import main; sys.exit(main(['--print-completion', {shell!r}]))"
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


def completions(folder, *words, module="cls_runtime.commands.embed"):
    """What bash offers for the last of the words, in `folder`."""
    if shutil.which("bash") is None:
        pytest.skip("no bash here")
    (folder / "script.bash").write_text(script("bash", module))
    command = words[0]
    program = (
        f"source ./script.bash; complete -p {command} >&2; function=$(complete -p {command} | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        f'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); $function {command} "${{@: -1}}" "${{@: -2:1}}"; printf "%s\\n" "${{COMPREPLY[@]}}"'
    )
    finished = subprocess.run(["bash", "--norc", "-c", program, "bash", *words], cwd=folder, capture_output=True, text=True)
    assert finished.stderr.startswith("complete ")
    return {word.rstrip(" /") for word in finished.stdout.splitlines()}


def test_bash_completes_options_choices_files_and_folders(tmp_path):
    (tmp_path / "bundles").mkdir()
    (tmp_path / "texts.txt").touch()
    assert "--prompt-name" in completions(tmp_path, "cls-embed", "--pro")
    assert completions(tmp_path, "cls-embed", "--dtype", "u") == {"uint8", "ubinary"}
    assert completions(tmp_path, "cls-embed", "b") == {"bundles"}
    assert "texts.txt" not in completions(tmp_path, "cls-embed", "t")  # a bundle is a folder
    assert completions(tmp_path, "cls-embed", "bundles", "te") == {"texts.txt"}
    assert completions(tmp_path, "cls-embed", "bundles", "texts.txt", "-o", "te") == {"texts.txt"}


def test_bash_completes_the_export(tmp_path):
    pytest.importorskip(EXPORTER)
    assert completions(tmp_path, "cls-export", "--pooling", "m", module=EXPORTER) == {"mean"}


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["-n"]), ("fish", ["--no-execute"])])
def test_the_script_of_another_shell_can_be_parsed(tmp_path, shell, check):
    (tmp_path / "script").write_text(script(shell))
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    finished = subprocess.run([shell, *check, str(tmp_path / "script")], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_without_shtab_the_line_names_the_pip_command(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert embed.main(["--print-completion", "bash"]) == 2
    assert capsys.readouterr().err == "error: shtab is not installed; run: pip install 'cls-export[completion]'\n"


def test_every_argument_that_is_a_path_is_completed():
    known = completion._FILES | completion._FOLDERS
    for action in embed._parser()._actions:
        if action.type is not None and "Path" in repr(action.type):
            assert action.metavar in known
