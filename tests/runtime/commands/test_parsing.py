"""What all commands have alike: examples without arguments, the option or value that was meant, and a complete --help."""

import re

import pytest

from cls_runtime.commands import bench, doctor, embed, serve, verify

MODULES = {"cls-embed": embed, "cls-verify": verify, "cls-bench": bench, "cls-serve": serve, "cls-doctor": doctor}
EXPORT = "cls-export"


@pytest.fixture(params=[*MODULES, EXPORT])
def command(request):
    """A command's name and its module."""
    if request.param == EXPORT:
        return EXPORT, pytest.importorskip("cls_exporter.command")
    return request.param, MODULES[request.param]


@pytest.mark.parametrize("name", ["cls-embed", "cls-verify", "cls-bench", "cls-serve", EXPORT])
def test_without_arguments_a_command_shows_its_examples(name, capsys, monkeypatch):
    monkeypatch.delenv("CLS_SERVE_BUNDLE", raising=False)
    module = MODULES.get(name) or pytest.importorskip("cls_exporter.command")
    assert module.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert all(line in captured.err for line, _ in module._EXAMPLES)
    assert captured.err.endswith(f"\nSee {name} --help for every option.\n")
    assert "required" not in captured.err


def test_a_server_may_be_told_all_by_variables(capsys, monkeypatch):
    monkeypatch.setenv("CLS_SERVE_BUNDLE", "none/here/at/all")
    assert serve.main([]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_help_is_complete(command, capsys):
    _, module = command
    assert module.main(["--help"]) == 0
    text = capsys.readouterr().out
    for title in ("examples", "environment variables", "exit codes"):
        assert f"\n{title}:\n" in text
    assert all(code in re.findall(r"^  (\d+)[ ,]", text, re.M) for code in ("0", "2", "130"))
    assert {"--quiet", "--json", "--version", "--print-completion"} <= {*re.findall(r"--[a-z-]+", text)}
    assert all(action.help for action in module._parser()._actions)


MISSPELT = {
    "cls-embed": [
        (["b", "t", "-o", "o.npy", "--normalise"], "unknown option --normalise (did you mean --normalize?)"),
        (["--colum=body"], "unknown option --colum (did you mean --column?)"),
        (["b", "t", "-o", "o.npy", "--variant", "int9"], "found 'int9' (did you mean int8?)"),
        (["b", "t", "-o", "o.npy", "--engine", "onnxrutime"], "found 'onnxrutime' (did you mean onnxruntime?)"),
        (["b", "t", "-o", "o.npy", "--output", "sentense"], "found 'sentense' (did you mean sentence?)"),
    ],
    "cls-verify": [(["b", "--agianst", "m"], "unknown option --agianst (did you mean --against?)"), (["b", "c"], "unexpected argument: c")],
    "cls-bench": [(["b", "--engine", "openvno"], "found 'openvno' (did you mean openvino?)")],
    "cls-serve": [
        (["b", "--max-inptus", "3"], "unknown option --max-inptus (did you mean --max-inputs?)"),
        (["b", "--api-keys", "SECRET"], "unknown option --api-keys"),
        (["b", "--api-keys=SECRET"], "unknown option --api-keys"),
    ],
    "cls-doctor": [(["--jsn"], "unknown option --jsn (did you mean --json?)")],
    EXPORT: [(["--poolin", "cls"], "unknown option --poolin (did you mean --pooling?)")],
}


def test_what_was_meant(command, capsys):
    name, module = command
    for arguments, line in MISSPELT[name]:
        assert module.main(arguments) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("error: ")
        assert captured.err.count("\n") == 1
        assert line in captured.err
        assert f"see {name} --help" in captured.err
        assert "SECRET" not in captured.err


def test_what_comes_behind_two_dashes_is_no_option(capsys):
    assert doctor.main(["--", "--none"]) == 2
    assert "bundle --none does not exist" in capsys.readouterr().err


def test_a_prompt_that_was_meant(own_bundle, tmp_path, capsys):
    (tmp_path / "texts.txt").write_text("the cat\n")
    arguments = [str(own_bundle), str(tmp_path / "texts.txt"), "-o", str(tmp_path / "out.npy")]
    assert embed.main([*arguments, "--prompt-name", "querry"]) == 2
    assert "prompt_name is 'querry', this bundle has" in capsys.readouterr().err
    assert embed.main([*arguments, "--prompt-name", "docment"]) == 2
    assert "(did you mean document?)" in capsys.readouterr().err
