import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from golden_bundle import TEXTS, agree, build_golden_bundle, nudged, replace_golden

from cls_runtime.bundle.golden import GOLDEN_NAME, Golden, read_golden
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.commands import verify
from cls_runtime.verifying import live_model
from cls_runtime.verifying.report import Check, VerifyReport

CHECKS = 10  # files, tokens, load, finite, golden x 3, batch invariance, truncation, refusals


def run(*arguments):
    return verify.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def one_engine(monkeypatch):
    """The same number of checks wherever these tests run."""
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("onnxruntime",))


@pytest.fixture
def wrong(own_bundle):
    """A bundle whose golden vector of text 3 is off by 0.25."""
    golden = read_golden(own_bundle / GOLDEN_NAME)
    replace_golden(own_bundle, dataclasses.replace(golden, vectors={**golden.vectors, "cls": nudged(golden.vectors["cls"], 3, 0.25)}))
    return own_bundle


def test_an_intact_bundle_passes(golden_bundle, capsys):
    assert run(golden_bundle) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert [line[:4] for line in lines[:CHECKS]] == ["pass"] * CHECKS
    assert "pass  fp32  onnxruntime  golden cls        9 texts, lowest cosine 1.0" in captured.out
    assert lines[-1].startswith(f"{CHECKS} checks passed in ")


def test_a_failed_check_ends_with_1_and_names_the_text(wrong, capsys):
    assert run(wrong) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.out.splitlines() if line.startswith("FAIL")]
    assert line.startswith("FAIL  fp32  onnxruntime  golden cls        1 of 9 texts differ, ")
    assert captured.err.startswith(f"error: 1 of {CHECKS} checks failed; fp32 golden cls on onnxruntime: 1 of 9 texts differ")
    assert "worst is text 3 'dog runs, the cat!'" in captured.err
    assert captured.err.count("\n") == 1


def test_a_wrong_hash_ends_with_1(own_bundle, capsys):
    path = own_bundle / "tokenizer_config.json"
    path.write_bytes(path.read_bytes().replace(b"PreTrained", b"PostTrain_"))
    assert run(own_bundle) == 1
    assert "error: 1 of 10 checks failed; files: 1 of 4 files are not the ones that were exported" in capsys.readouterr().err


def test_json_is_one_document_whether_it_passes_or_not(golden_bundle, wrong, capsys):
    for folder, code in ((golden_bundle, 0), (wrong, 1)):
        assert run(folder, "--json") == code
        document = json.loads(capsys.readouterr().out)
        assert document["passed"] is (code == 0)
        assert document["fingerprint"] == read_manifest(folder).fingerprint
        checks = {check["name"]: check for check in document["checks"]}
        assert len(checks) == CHECKS
        assert checks["golden cls"]["passed"] is (code == 0)
        assert set(checks["golden cls"]) == {"name", "variant", "engine", "passed", "skipped", "message", "figures", "seconds"}
        assert checks["golden cls"]["figures"]["texts"] == len(TEXTS)


def test_junit_has_a_test_case_for_each_check(wrong, tmp_path):
    assert run(wrong, "--junit", tmp_path / "report.xml") == 1
    (suite,) = ET.parse(tmp_path / "report.xml").getroot()
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == (str(CHECKS), "1", "0")
    cases = suite.findall("testcase")
    assert len(cases) == CHECKS
    (failure,) = suite.iter("failure")
    (failing,) = [case for case in cases if case.find("failure") is not None]
    assert (failing.get("classname"), failing.get("name")) == ("cls-verify.fp32.onnxruntime", "golden cls")
    assert "worst is text 3" in failure.get("message")
    properties = {item.get("name"): item.get("value") for item in failing.iter("property")}
    assert float(properties["max_abs"]) == pytest.approx(0.25, rel=1e-3)


def test_junit_holds_any_message():
    report = VerifyReport(
        bundle=Path("odd\x00name\udcff"),
        source="s",
        fingerprint="f",
        checks=(Check(name="n", variant=None, engine=None, passed=False, message="<&> \x1b[0m \ud800 \x00 ü", figures={}, seconds=0.1),),
    )
    (failure,) = ET.fromstring(verify.junit_xml(report)).iter("failure")
    assert failure.get("message") == "<&> \ufffd[0m \ufffd \ufffd ü"


def test_one_variant(tmp_path, capsys):
    folder = build_golden_bundle(tmp_path / "two", variants={"fp32": None, "int8": None})
    assert run(folder, "--json") == 0
    assert {check["variant"] for check in json.loads(capsys.readouterr().out)["checks"]} == {None, "fp32", "int8"}
    assert run(folder, "--variant", "int8", "--json") == 0
    assert {check["variant"] for check in json.loads(capsys.readouterr().out)["checks"]} == {None, "int8"}


def test_texts_of_ones_own(golden_bundle, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("text\nmy own\nwords\n")
    assert run(golden_bundle, "--texts", tmp_path / "mine.csv") == 0
    assert "2 texts, every number is finite" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: BUNDLE"),
        (["{bundle}", "--variant", "int8"], "has no variant 'int8', it has fp32"),
        (["{bundle}", "--variant", "fp64"], "invalid choice: 'fp64'"),
        (["{bundle}", "--device", "1"], "--device goes with --engine cuda, which computes on a GPU; found no --engine"),
        (["{bundle}", "--device", "1", "--engine", "onnxruntime"], "found --engine onnxruntime"),
        (["{bundle}", "--device", "0,0", "--engine", "cuda"], "device is '0,0', which names a GPU twice"),
        (["{bundle}", "--engine", "tensorrt"], "engine tensorrt was taken out"),
        (["{work}/none"], "none does not exist"),
        (["{work}"], "cls_export.json does not exist"),
        (["{bundle}", "--junit", "{work}/none/report.xml"], "none does not exist; make it first"),
        (["{bundle}", "--junit", "{work}"], "is a folder, expected a file's name"),
        (["{bundle}", "--texts", "{work}/none.txt"], "none.txt does not exist"),
        (["{bundle}", "--texts", "{work}/empty.txt"], "has no texts, expected at least one"),
        (["{bundle}", "--texts", "{work}/many.txt"], "has more than 10,000 texts"),
        (["{bundle}", "--against", "some/model"], "pip install 'cls-export[export,cpu]'"),
    ],
)
def test_misuse_is_one_line_and_exit_code_2(golden_bundle, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.setattr(live_model, "REFERENCE_GROUP", "cls_export.nobody_is_here")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "many.txt").write_text("x\n" * 10_001)
    assert run(*(argument.format(bundle=golden_bundle, work=tmp_path) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


def overwrite(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize("name", ["cls_export.json", "golden.npz", "onnx/model.onnx", "tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), overwrite(b""), overwrite(b"\x00garbage")])
def test_damage_is_a_fail_line_exit_code_1_and_a_report(own_bundle, tmp_path, capsys, name, damage):
    """Only where there is no manifest there is no bundle."""
    damage(own_bundle / name)
    is_bundle = (own_bundle / "cls_export.json").exists()
    assert run(own_bundle, "--junit", tmp_path / "report.xml") == (1 if is_bundle else 2)
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert captured.out.startswith("FAIL  all                files  " if is_bundle else "")
    (case, *_) = ET.parse(tmp_path / "report.xml").getroot().iter("testcase")
    assert case.get("name") == ("files" if is_bundle else "cls-verify")
    assert case.find("failure").get("message") in captured.err
    assert run(own_bundle, "--json") == (1 if is_bundle else 2)
    assert not is_bundle or json.loads(capsys.readouterr().out)["passed"] is False


def test_a_pointer_in_the_place_of_a_file_is_called_one(own_bundle, capsys):
    (own_bundle / "onnx/model.onnx").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:7\nsize 9\n")
    assert run(own_bundle) == 1
    assert "onnx/model.onnx is a Git LFS pointer, not the file; run git lfs pull" in capsys.readouterr().out


PASSED = b"<testsuites><testsuite name='cls-verify old' failures='0'/></testsuites>"


@pytest.mark.parametrize(
    "arguments",
    [
        ["{work}/none"],
        ["{bundle}", "--variant", "int8"],
        ["{bundle}", "--texts", "{work}/none.txt"],
        ["{bundle}", "--texts", "{work}/empty.txt"],
    ],
)
def test_an_old_report_does_not_stay_when_the_checks_cannot_be_made(golden_bundle, tmp_path, capsys, arguments):
    (tmp_path / "empty.txt").touch()
    report = tmp_path / "report.xml"
    report.write_bytes(PASSED)
    assert run(*(item.format(bundle=golden_bundle, work=tmp_path) for item in arguments), "--junit", report) == 2
    (failure,) = ET.parse(report).getroot().iter("failure")
    assert f"error: {failure.get('message')}\n" == capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_an_old_report_does_not_stay_when_the_checks_are_ended(golden_bundle, tmp_path, number):
    report = tmp_path / "report.xml"
    report.write_bytes(PASSED)
    program = (
        "import os, sys\nfrom cls_runtime.commands import verify\n"
        f"verify.verify = lambda *_, **__: os.kill(os.getpid(), {int(number)}) or sys.stdin.read()\nsys.exit(verify.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, str(golden_bundle), "--junit", str(report)]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True)
    (failure,) = ET.parse(report).getroot().iter("failure")
    assert failure.get("message") == "the checks were not finished"
    assert [path.name for path in tmp_path.iterdir()] == ["report.xml"]


def linked(path, target, how):
    how(target, path)
    return path


@pytest.mark.parametrize(
    "place",
    [
        lambda bundle, work: bundle / "golden.npz",
        lambda bundle, work: bundle / "cls_export.json",
        lambda bundle, work: bundle / "onnx" / "report.xml",
        lambda bundle, work: bundle / "onnx" / ".." / "tokenizer.json",
        lambda bundle, work: linked(work / "link.xml", bundle / "golden.npz", os.symlink),
        lambda bundle, work: linked(work / "dangling.xml", bundle / "new.xml", os.symlink),
        lambda bundle, work: linked(work / "hard.xml", bundle / "golden.npz", os.link),
        lambda bundle, work: linked(work / "folder", bundle, os.symlink) / "golden.npz",
        lambda bundle, work: work / "mine.txt",
        lambda bundle, work: linked(work / "mine.xml", work / "mine.txt", os.link),
        lambda bundle, work: work / "checkpoint" / "model.safetensors",
    ],
)
def test_the_report_replaces_nothing_that_is_read(own_bundle, tmp_path, capsys, place):
    (tmp_path / "mine.txt").write_text("my own\n")
    (tmp_path / "checkpoint").mkdir()
    target = place(own_bundle, tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert run(own_bundle, "--texts", tmp_path / "mine.txt", "--against", tmp_path / "checkpoint", "--junit", target) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: --junit {target} is ")
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_report_through_a_pipe_is_one_report(golden_bundle, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert run(golden_bundle, "--junit", pipe) == 0
        assert os.read(reader, 2**20).count(b"</testsuites>") == 1
    finally:
        os.close(reader)


def test_a_vector_that_is_nan_is_json_all_the_same(golden_bundle, tmp_path, capsys):
    bundle = shutil.copytree(golden_bundle, tmp_path / "own")
    vectors = {name: np.full_like(rows, np.nan) for name, rows in read_golden(bundle / GOLDEN_NAME).vectors.items()}
    replace_golden(bundle, Golden(texts=TEXTS, vectors=vectors))
    assert run(bundle, "--json") == 1
    document = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [check["name"] for check in document["checks"] if not check["passed"]] == [
        "golden cls",
        "golden pooler",
        "golden logits",
        "truncation",
    ]


def test_it_runs_as_a_process_without_pytorch(golden_bundle):
    program = (
        f"import sys; from cls_runtime.commands import verify; code = verify.main([{str(golden_bundle)!r}])\n"
        "loaded = sorted({'torch', 'transformers', 'onnx', 'cls_exporter'} & set(sys.modules)); sys.exit(str(loaded) if loaded else code)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")


def test_help_has_examples(capsys):
    assert run("--help") == 0
    output = capsys.readouterr().out
    assert "cls-verify models/my-model --against bert-base-uncased" in output


@pytest.fixture
def upgrade(golden_bundle, tmp_path):
    """A copy of the bundle that cuts texts earlier."""
    folder = shutil.copytree(golden_bundle, tmp_path / "upgrade")
    agree(folder, max_length=12)
    return folder


def test_compare_with_an_equal_bundle(golden_bundle, own_bundle, capsys):
    assert run(golden_bundle, "--compare", own_bundle) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    assert "  fingerprint  equal\n" in captured.out
    assert "mean cosine 1.00000000, lowest 1.00000000, largest difference 0" in captured.out
    assert "nearest, 100.0% stay, 100% for the worst text; 100.0% with" in captured.out
    assert captured.out.splitlines()[-1] == f"{own_bundle} gives the vectors of {golden_bundle}: one may take the other's place"


def test_compare_with_another_bundle_ends_with_1_and_says_why(golden_bundle, upgrade, capsys):
    assert run(golden_bundle, "--compare", upgrade) == 1
    captured = capsys.readouterr()
    assert "maximum length: 16 -> 12" in captured.out
    assert "2 -> 3 texts are cut, 3 of them differently" in captured.out
    assert captured.err.startswith(
        f"error: {upgrade} does not give the vectors of {golden_bundle}; texts are truncated at 16 tokens, in the other at 12"
    )
    assert captured.err.count("\n") == 1


def test_compare_as_json(golden_bundle, own_bundle, upgrade, tmp_path, capsys):
    (tmp_path / "mine.txt").write_text("a\nthe cat\na dog runs\n")
    for other, code in ((own_bundle, 0), (upgrade, 1)):
        assert run(golden_bundle, "--compare", other, "--texts", tmp_path / "mine.txt", "--json") == code
        document = json.loads(capsys.readouterr().out)
        assert document["interchangeable"] is (code == 0)
        assert document["same_fingerprint"] is (code == 0)
        assert document["texts"] == 3
        assert document["second"]["max_length"] == (16 if code == 0 else 12)
        assert document["figures"]["cls"]["max_abs"] == 0.0
        assert document["neighbours"]["neighbours"] == 1


@pytest.mark.parametrize("arguments", [["--against", "some/model"], ["--junit", "report.xml"]])
def test_compare_refuses_what_it_would_ignore(golden_bundle, capsys, arguments):
    assert run(golden_bundle, "--compare", golden_bundle, *arguments) == 2
    error = f"error: {arguments[0]} goes with checks of one bundle, --compare makes none; found --compare {golden_bundle}\n"
    assert capsys.readouterr().err == error


@pytest.mark.slow
def test_a_real_bundle_passes_and_one_changed_word_is_found(minilm_bundle, tmp_path, capsys):
    onnx = pytest.importorskip("onnx")
    assert run(minilm_bundle, "--json") == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    assert not [name for name, check in checks.items() if check["skipped"]]
    assert checks["tokens"]["figures"]["texts"] > 100

    bundle = shutil.copytree(minilm_bundle, tmp_path / "damaged")
    model = onnx.load(bundle / "onnx" / "model.onnx")
    (table,) = [item for item in model.graph.initializer if list(item.dims) == [30522, 384]]
    weights = onnx.numpy_helper.to_array(table).copy()
    weights[22421] *= 1.05  # kettle
    table.CopyFrom(onnx.numpy_helper.from_array(weights, table.name))
    onnx.save(model, bundle / "onnx" / "model.onnx")
    agree(bundle)
    assert run(bundle, "--variant", "fp32") == 1
    assert "1 of 159 texts differ, which suggests other weights for single words" in capsys.readouterr().err
