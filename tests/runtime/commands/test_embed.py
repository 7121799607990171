import csv
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import numpy as np
import pytest
from bundle_builder import build_bundle

from cls_runtime import Encoder
from cls_runtime.commands import embed

TEXTS = ["the cat sleeps", "", "a", "dog, runs", "the cat sleeps"]
LONG = "the dog sleeps " * 20


@pytest.fixture
def texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("".join(f"{text}\n" for text in TEXTS))
    return path


def expected(bundle, texts=TEXTS, **options):
    with Encoder.load(bundle, on_overflow="truncate") as encoder:
        return encoder.encode(texts, **options)


def run(*arguments):
    return embed.main([str(argument) for argument in arguments])


def test_rows_are_the_encoders_in_input_order(golden_bundle, texts, tmp_path, capsys):
    out = tmp_path / "out.npy"
    assert run(golden_bundle, texts, "-o", out, "--dtype", "float32") == 0
    vectors = np.load(out, allow_pickle=False)
    np.testing.assert_allclose(vectors, expected(golden_bundle), atol=1e-6)
    assert vectors.dtype == np.float32
    captured = capsys.readouterr()
    assert captured.out.startswith(f"5 texts -> {out} (float32 [5, 8]) in ")
    assert re.search(r"texts/s with fp32 on (onnxruntime|openvino); 0 truncated\n$", captured.out)
    assert captured.err == ""


@pytest.mark.parametrize(("output", "width"), [("cls", 8), ("pooler", 8), ("logits", 3)])
@pytest.mark.parametrize("normalize", [False, True])
def test_output_and_normalize(golden_bundle, texts, tmp_path, output, width, normalize):
    out = tmp_path / "out.npy"
    assert run(golden_bundle, texts, "-o", out, "--output", output, *(["--normalize"] if normalize else [])) == 0
    vectors = np.load(out)
    assert vectors.shape == (5, width)
    np.testing.assert_allclose(vectors, expected(golden_bundle, output=output, normalize=normalize), atol=1e-6)


def test_every_format_and_standard_input_in_order(golden_bundle, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from stdin\n")))
    (tmp_path / "more.jsonl").write_text(json.dumps({"body": "from jsonl"}) + "\n")
    with (tmp_path / "more.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "body"], ["1", "from, csv"]])
    out = tmp_path / "out.npy"
    assert run(golden_bundle, tmp_path / "more.csv", "-", texts, tmp_path / "more.jsonl", "-o", out, "--column", "body") == 0
    np.testing.assert_allclose(np.load(out), expected(golden_bundle, ["from, csv", "from stdin", *TEXTS, "from jsonl"]), atol=1e-6)


@pytest.mark.parametrize(("typed", "letter"), [(";", ";"), ("\\t", "\t"), ("tab", "\t"), ("\t", "\t"), (",", ",")])
def test_csv_with_a_delimiter(golden_bundle, tmp_path, typed, letter):
    (tmp_path / "in.csv").write_text(f"id{letter}text\n1{letter}the cat\n2{letter}dog\n")
    assert run(golden_bundle, tmp_path / "in.csv", "-o", tmp_path / "out.npy", "--delimiter", typed) == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(golden_bundle, ["the cat", "dog"]), atol=1e-6)


def test_a_dot_reaches_into_objects_and_two_strings_are_a_pair(golden_bundle, tmp_path):
    lines = [{"doc": {"body": "the cat"}}, {"doc": {"body": ["a", "dog"]}}, {"doc.body": "dog", "doc": {}}]
    (tmp_path / "in.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    assert run(golden_bundle, tmp_path / "in.jsonl", "-o", tmp_path / "out.npy", "--column", "doc.body") == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(golden_bundle, ["the cat", ("a", "dog"), "dog"]), atol=1e-6)


def test_no_texts_give_a_file_without_rows(golden_bundle, tmp_path, capsys):
    (tmp_path / "empty.txt").touch()
    assert run(golden_bundle, tmp_path / "empty.txt", "-o", tmp_path / "out.npy") == 0
    assert np.load(tmp_path / "out.npy").shape == (0, 8)
    assert capsys.readouterr().out.startswith("0 texts -> ")


def test_more_texts_than_a_window(golden_bundle, tmp_path):
    lines = [f"cat {number % 97} dog" for number in range(10_000)]
    (tmp_path / "many.txt").write_text("\n".join(lines))
    assert run(golden_bundle, tmp_path / "many.txt", "-o", tmp_path / "out.npy") == 0
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), expected(golden_bundle, lines), atol=1e-6)


def test_json_is_one_document(golden_bundle, texts, tmp_path, capsys):
    assert run(golden_bundle, texts, "-o", tmp_path / "out.npy", "--json", "--threads", 1) == 0
    document = json.loads(capsys.readouterr().out)
    with Encoder.load(golden_bundle) as encoder:
        engine, fingerprint = encoder.info.engine, encoder.manifest.fingerprint
    keys = ("texts", "width", "output", "prompt", "dimensions", "normalized", "dtype", "ranges_sha256")
    assert {key: document[key] for key in (*keys, "truncated", "engine", "variant", "threads")} == {
        "texts": 5,
        "width": 8,
        "output": "cls",
        "prompt": "",
        "dimensions": 8,
        "normalized": False,
        "dtype": "float32",
        "ranges_sha256": None,
        "truncated": 0,
        "engine": engine,
        "variant": "fp32",
        "threads": 1,
    }
    assert document["fingerprint"] == fingerprint
    assert document["texts_per_second"] > 0
    assert any("variant fp32" in reason for reason in document["reasons"])


# What is typed, what `encode` is given, and what --json says was used.
USED = {
    "as trained": ([], {}, {"prompt": "a dog: ", "normalized": True, "dimensions": 8, "width": 8}),
    "query": (["--prompt-name", "query"], {"prompt_name": "query"}, {"prompt": "the cat, "}),
    "none": (["--prompt", "", "--no-normalize"], {"prompt": "", "normalize": False}, {"prompt": "", "normalized": False}),
    "cut": (["--dimensions", 4], {"dimensions": 4}, {"dimensions": 4, "width": 4, "normalized": True}),
    "bits": (["--dtype", "ubinary"], {"dtype": "ubinary"}, {"dtype": "ubinary", "dimensions": 8, "width": 1}),
    "bytes": (["--dtype", "int8"], {"dtype": "int8"}, {"dtype": "int8", "width": 8}),
    "logits": (["--output", "logits"], {"output": "logits"}, {"output": "logits", "normalized": False, "width": 3}),
}


@pytest.mark.parametrize("case", USED)
def test_json_says_what_the_bundle_decided(trained, texts, tmp_path, capsys, case):
    typed, options, used = USED[case]
    assert run(trained, texts, "-o", tmp_path / "out.npy", *typed) == 0
    vectors, true = np.load(tmp_path / "out.npy"), expected(trained, **options)
    assert vectors.dtype == true.dtype
    np.testing.assert_allclose(vectors, true, atol=1e-6)
    assert f"({used.get('dtype', 'float32')} [5, {vectors.shape[1]}])" in capsys.readouterr().out
    assert run(trained, texts, "-o", tmp_path / "out.npy", "--json", *typed) == 0
    document = json.loads(capsys.readouterr().out)
    assert {name: document[name] for name in used} == used
    assert (document["ranges_sha256"] is None) == (case != "bytes")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_row_without_a_text_is_nan_among_floats(golden_bundle, tmp_path, dtype):
    (tmp_path / "in.txt").write_bytes(b"the cat\n\xff\ndog\n")
    assert run(golden_bundle, tmp_path / "in.txt", "-o", tmp_path / "out.npy", "--on-error", "null", "--dtype", dtype) == 0
    vectors = np.load(tmp_path / "out.npy")
    assert np.isnan(vectors).all(axis=1).tolist() == [False, True, False]
    true = expected(golden_bundle, ["the cat", "dog"], dtype=dtype)
    np.testing.assert_allclose(vectors[[0, 2]], true, atol=1e-6 if dtype == "float32" else 4e-3)


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "options", "shown"), [(Terminal, [], True), (Terminal, ["--json"], False), (io.StringIO, [], False)])
@pytest.mark.parametrize("out", ["out.npy", "out"])
def test_a_bar_on_a_terminal(golden_bundle, texts, tmp_path, monkeypatch, out, stream, options, shown):
    pytest.importorskip("tqdm")
    if out == "out":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(sys, "stderr", stream())
    assert run(golden_bundle, texts, "-o", tmp_path / out, *options) == 0
    assert ("rows [" in sys.stderr.getvalue()) is shown
    assert bool(sys.stderr.getvalue()) is shown


@pytest.mark.parametrize(
    ("choice", "code", "stderr"),
    [
        ("warn", 0, "warning: 2 of 4 texts exceed the model's 16 tokens and were truncated (first text 1; "),
        ("truncate", 0, ""),
        ("raise", 2, "error: text 1 has "),
    ],
)
def test_texts_that_are_too_long(golden_bundle, tmp_path, capsys, choice, code, stderr):
    (tmp_path / "long.txt").write_text(f"short\n{LONG}\nshort\n{LONG * 2}\n")
    assert run(golden_bundle, tmp_path / "long.txt", "-o", tmp_path / "out.npy", "--on-overflow", choice) == code
    captured = capsys.readouterr()
    assert captured.err.startswith(stderr)
    assert captured.err.count("\n") == bool(stderr)
    assert (tmp_path / "out.npy").exists() is (code == 0)
    assert code or captured.out.endswith("2 truncated\n")


# What is wrong: the arguments, with {bundle}, {texts} and {work} (a folder) filled in, and what the error says.
BAD_USAGE = {
    "no output": ("{bundle} {texts}", "the following arguments are required: -o"),
    "no input": ("{bundle} -o {work}/out.npy", "the following arguments are required: INPUT"),
    "not npy": ("{bundle} {texts} -o {work}/out.bin", "expected a name that ends in .npy"),
    "no folder": ("{bundle} {texts} -o {work}/none/out.npy", "does not exist; make it first"),
    "missing input": ("{bundle} {work}/none.txt -o {work}/out.npy", "none.txt does not exist"),
    "foreign input": ("{bundle} {work}/none.pdf -o {work}/out.npy", "texts are read from .txt, .jsonl, .csv, .parquet"),
    "not UTF-8": ("{bundle} {work}/bad.txt -o {work}/out.npy", "bad.txt line 2 is not UTF-8"),
    "lone surrogate": ("{bundle} {work}/bad.jsonl -o {work}/out.npy", "bad.jsonl line 2 has a lone surrogate"),
    "missing bundle": ("{work}/none {texts} -o {work}/out.npy", "none does not exist"),
    "foreign bundle": ("{work}/foreign {texts} -o {work}/out.npy", "cls_export.json does not exist"),
    "unknown variant": ("{bundle} {texts} -o {work}/out.npy --variant fp64", "invalid choice: 'fp64'"),
    "variant not there": ("{bundle} {texts} -o {work}/out.npy --variant int8", "the bundle has no variant 'int8'"),
    "unknown engine": ("{bundle} {texts} -o {work}/out.npy --engine abacus", "invalid choice: 'abacus'"),
    "delimiter of two": ("{bundle} {work}/a.csv -o {work}/out.npy --delimiter ;;", "delimiter is ';;', expected one character"),
    "delimiter without CSV": ("{bundle} {texts} -o {work}/out.npy --delimiter ;", "--delimiter goes with .csv files; found "),
    "two prompts": (
        "{bundle} {texts} -o {work}/out.npy --prompt-name query --prompt a",
        "--prompt is a text of your own; give one of them",
    ),
    "unknown prompt": ("{bundle} {texts} -o {work}/out.npy --prompt-name title", "prompt_name is 'title', this bundle has query, document"),
    "too many dimensions": ("{bundle} {texts} -o {work}/out.npy --dimensions 9", "dimensions is 9, the vectors of this bundle have 8"),
    "ranges for floats": (
        "{bundle} {texts} -o {work}/out.npy --ranges r.npy",
        "--ranges goes with --dtype int8 or uint8; found --dtype float32",
    ),
    "no ranges": (
        "{bundle} {texts} -o {work}/out.npy --dtype int8 --ranges {work}/r.npy",
        "r.npy does not exist; expected float32 [2, width]",
    ),
    "no NaN": (
        "{bundle} {texts} -o {work}/out.npy --dtype uint8 --on-error null",
        "a .npy of integers has no number for a row without a text",
    ),
    "tokens": ("{bundle} {texts} -o {work}/out.npy --output tokens", "invalid choice: 'tokens'"),
    "no threads": ("{bundle} {texts} -o {work}/out.npy --threads 0", "threads is 0"),
}


@pytest.mark.parametrize("case", BAD_USAGE)
def test_bad_usage_is_one_line_exit_code_2_and_harms_nothing(golden_bundle, texts, tmp_path, capsys, case):
    work = tmp_path / "work"
    (work / "foreign").mkdir(parents=True)
    (work / "bad.txt").write_bytes(b"fine\n\xff\n")
    (work / "bad.jsonl").write_text('"fine"\n{"text": "\\ud800"}\n')
    (work / "a.csv").write_text("text\ncat\n")
    (work / "out.npy").write_bytes(b"an old file")
    before = sorted(path.name for path in work.iterdir())
    template, message = BAD_USAGE[case]
    arguments = [argument.format(bundle=golden_bundle, texts=texts, work=work) for argument in template.split()]
    assert run(*arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert (work / "out.npy").read_bytes() == b"an old file"
    assert sorted(path.name for path in work.iterdir()) == before


def test_an_output_that_the_bundle_lacks(texts, tmp_path, capsys):
    bundle = build_bundle(tmp_path / "cls-only", outputs=("sentence_embedding",))
    assert run(bundle, texts, "-o", tmp_path / "out.npy", "--output", "pooler") == 2
    assert capsys.readouterr().err == "error: output is 'pooler', this bundle has sentence, cls; export it with --pooler\n"


def test_a_vector_that_is_not_finite_ends_with_1(texts, tmp_path, capsys):
    bundle = build_bundle(tmp_path / "nan", change_weights=lambda weights: np.full_like(weights, np.nan))
    assert run(bundle, texts, "-o", tmp_path / "out.npy") == 1
    assert "error: the vector of text 0 has NaN" in capsys.readouterr().err
    assert not (tmp_path / "out.npy").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_signal_in_the_middle_leaves_the_old_file(golden_bundle, tmp_path, number, code):
    out = tmp_path / "out.npy"
    out.write_bytes(b"an old file")
    command = [sys.executable, "-m", "cls_runtime.commands.embed", str(golden_bundle), "-", "-o", str(out)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write(b"the cat sleeps\n" * 20_000)
        process.stdin.flush()
        while not list(tmp_path.glob(".out.npy.*.part")):  # however long it takes; standard input stays open, so it never ends by itself
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        os.kill(process.pid, number)
        output, error = process.communicate()
    assert process.returncode == code
    assert output == b""
    assert b"Traceback" not in error
    assert out.read_bytes() == b"an old file"
    if number != signal.SIGKILL:
        assert [path.name for path in tmp_path.iterdir()] == ["out.npy"]
        assert error.count(b"\n") == 1


def test_help_has_examples_and_needs_no_engine():
    program = (
        "import sys; from cls_runtime.commands import embed; code = embed.main(['--help'])\n"
        "sys.exit('engine loaded' if 'onnxruntime' in sys.modules else code)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "examples:\n  cls-embed models/my-model texts.txt -o vectors.npy" in finished.stdout
