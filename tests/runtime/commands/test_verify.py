import dataclasses
import json
import shutil
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
from cls_runtime.verifying import verification as verify_module
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
    assert line.startswith("FAIL  fp32  onnxruntime  golden cls        1 of 9 texts are off, ")
    assert captured.err.startswith(f"error: 1 of {CHECKS} checks failed; fp32 golden cls on onnxruntime: 1 of 9 texts are off")
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
    monkeypatch.setattr(verify_module, "REFERENCE_GROUP", "cls_export.nobody_is_here")
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
def test_no_damage_ends_in_a_traceback(golden_bundle, tmp_path, capsys, name, damage):
    bundle = shutil.copytree(golden_bundle, tmp_path / "own")
    damage(bundle / name)
    assert run(bundle) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


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
        f"error: {upgrade} does not give the vectors of {golden_bundle}; texts are cut at 16 tokens, by the other at 12"
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
    assert "1 of 159 texts are off, as other weights for single words" in capsys.readouterr().err
