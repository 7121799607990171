"""--quiet: no progress, no summary; errors, warnings and what was asked for stay."""

import json

import pytest

from cls_runtime.commands import bench, doctor, embed, serve, verify


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("the cat\na dog\n")
    return path


def test_embed_prints_warnings_and_json_only(golden_bundle, texts, tmp_path, capsys):
    arguments = [str(golden_bundle), str(texts), "-o", str(tmp_path / "out.npy"), "--quiet"]
    assert embed.main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    assert (tmp_path / "out.npy").is_file()
    assert embed.main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["texts"] == 2
    texts.write_text("the cat " * 100 + "\n")
    assert embed.main(arguments) == 0
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n")) == ("", 1)
    assert said.err.startswith("warning: ")


def test_shards_too(golden_bundle, texts, tmp_path, capsys):
    pytest.importorskip("pyarrow")
    assert embed.main([str(golden_bundle), str(texts), "-o", str(tmp_path / "out"), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_verify_prints_failed_checks_only(own_bundle, capsys):
    arguments = [str(own_bundle), "--engine", "onnxruntime", "--quiet"]
    assert verify.main(arguments) == 0
    assert capsys.readouterr() == ("", "")
    assert verify.main([*arguments, "--compare", str(own_bundle)]) == 0
    assert capsys.readouterr() == ("", "")
    with (own_bundle / "tokenizer.json").open("a") as file:
        file.write(" ")
    assert verify.main(arguments) == 1
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert lines[0].split()[:3] == ["FAIL", "all", "files"]
    assert all(line.startswith("FAIL ") for line in lines)
    assert said.err.startswith(f"error: {len(lines)} of ")


def test_doctor_prints_its_first_line_and_problems(golden_bundle, tmp_path, capsys):
    assert doctor.main(["--quiet"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("OK: ")
    assert said.out.count("\n") == 1
    assert doctor.main([str(golden_bundle), "--quiet"]) == 0
    assert capsys.readouterr().out.startswith(f"OK: {golden_bundle} works with fp32 on ")
    assert doctor.main([str(tmp_path / "none"), "--quiet"]) == 2
    said = capsys.readouterr()
    assert said.out == "1 problem: the bundle cannot be used\n"
    assert said.err.startswith("error: the bundle cannot be used: ")


def test_serve_check_prints_nothing(golden_bundle, capsys):
    pytest.importorskip("uvicorn")
    assert serve.main([str(golden_bundle), "--check", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_bench_wants_a_file_for_its_results(golden_bundle, capsys):
    assert bench.main([str(golden_bundle), "--quiet"]) == 2
    assert capsys.readouterr().err.startswith("error: --quiet goes with --json, --plot or --html")
