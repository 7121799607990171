import dataclasses
import importlib.util
import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from cls_exporter import command, exporting
from cls_exporter.config import ExportConfig, ExportReport
from cls_exporter.errors import CheckpointError, ParityError
from cls_runtime.bundle import manifest as manifests
from cls_runtime.bundle.manifest import BundleFile, Manifest, OutputSpec, ParityFigures, Pooler, Source, SourcePooling, Variant

FIGURES = ParityFigures(texts=40, mean_cosine=0.99999999, p1_cosine=0.9999999, min_cosine=0.9999998, max_abs=1.2e-6, worst_text=7)


def report(folder: Path) -> ExportReport:
    (folder / "onnx").mkdir(parents=True)
    (folder / "onnx" / "model.onnx").write_bytes(b"x" * 12_345)
    (folder / "config.json").write_text("{}")
    file = BundleFile(path="onnx/model.onnx", sha256="0" * 64, size_bytes=12_345)
    manifest = Manifest(
        source=Source(name="tiny-bert", revision=None, weights_sha256="1" * 64, tokenizer_sha256="2" * 64),
        architecture="BertModel",
        hidden_size=8,
        num_layers=2,
        max_length=32,
        layout="standard",
        inputs=("input_ids", "attention_mask"),
        outputs=(OutputSpec(name="last_hidden_state", width=8), OutputSpec(name="sentence_embedding", width=8)),
        pooler=Pooler(state="absent", evidence="no pooler weights"),
        source_pooling=SourcePooling(mode="cls"),
        variants={"fp32": Variant(files=(file,), recipe={}, parity={"cls": FIGURES}, batch_invariance_max_abs=2e-7)},
        files=(),
        tool_versions={},
    )
    return ExportReport(
        path=folder,
        manifest=manifest,
        parity={"fp32": FIGURES},
        rewrites={"row_selection": 1},
        multiply_adds={"full": 1000, "exported": 880},
        notes=("the masked-LM head was left out",),
        seconds={"load": 1.0, "trace": 2.5, "total": 3.5},
    )


class FakeExport:
    """Stands where `cls_exporter.exporting` is: keeps what it is called with, and writes a bundle or raises."""

    def __init__(self):
        self.calls = []
        self.error = None

    def __call__(self, model, output, *, config, revision, force, progress):
        self.calls.append({"model": model, "output": output, "config": config, "revision": revision, "force": force})
        print("a library that talks while it traces")
        for step in ("Loading", "Tracing", "Comparing"):
            progress(step)
        if self.error is not None:
            raise self.error
        return report(Path(output))


@pytest.fixture
def fake(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    export = FakeExport()
    module = types.ModuleType("cls_exporter.exporting")
    module.export = export
    monkeypatch.setitem(sys.modules, "cls_exporter.exporting", module)
    return export


def test_the_plain_command_exports_fp32_into_models(fake, capsys):
    assert command.main(["org/tiny-bert"]) == 0
    assert fake.calls == [
        {"model": "org/tiny-bert", "output": Path("models/tiny-bert"), "config": ExportConfig(), "revision": None, "force": False}
    ]
    output = "\n".join(" ".join(line.split()) for line in capsys.readouterr().out.splitlines())
    for expected in (
        "Exported tiny-bert to models/tiny-bert",
        "BertModel: 2 layers, hidden size 8, texts up to 32 tokens",
        "last_hidden_state (8 wide), sentence_embedding (8 wide)",
        "pooler absent (no pooler weights)",
        "12% fewer multiply-adds than the full encoder",
        "the masked-LM head was left out",
        "onnx/model.onnx 12.3 kB",
        "config.json 2 bytes",
        "fp32 cls 40 0.99999999 0.99999980 1.2e-06 2.0e-07",
        "Took 3.5 s (load 1.0 s, trace 2.5 s)",
        "Next: cls-embed models/tiny-bert texts.txt -o vectors.npy",
    ):
        assert expected in output
    assert "a library that talks" not in output


def test_quiet_prints_nothing_but_json(fake, capsys):
    assert command.main(["org/tiny-bert", "--quiet"]) == 0
    assert capsys.readouterr().out == ""
    assert command.main(["org/tiny-bert", "-o", "other", "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["path"]


def test_the_package_is_the_command():
    finished = subprocess.run([sys.executable, "-m", "cls_exporter", "--version"], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout.startswith("cls-export ")


def test_every_option_reaches_the_export(fake):
    options = "-o out --revision v1 --force --pooler --logits --layout native --max-length 16 --fp16 --int8 --no-fp32 --calibration c.txt"
    allowed = "--tokenizer file --allow-pooling-mismatch --allow-untrained-pooler --trust-remote-code"
    assert command.main(["org/tiny-bert", *options.split(), *allowed.split()]) == 0
    (call,) = fake.calls
    assert (call["output"], call["revision"], call["force"]) == (Path("out"), "v1", True)
    assert call["config"] == ExportConfig(
        pooler=True,
        logits=True,
        precisions=("fp16", "int8"),
        layout="native",
        max_length=16,
        tokenizer="file",
        calibration=Path("c.txt"),
        allow_pooling_mismatch=True,
        allow_untrained_pooler=True,
        trust_remote_code=True,
    )


def test_json_is_one_document_with_the_whole_report(fake, capsys):
    assert command.main(["org/tiny-bert", "--json"]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert "a library that talks" in captured.err
    assert set(document) == set(ExportReport.__dataclass_fields__)
    assert document["parity"]["fp32"]["min_cosine"] == FIGURES.min_cosine
    assert manifests.from_json(json.dumps(document["manifest"])) == report(Path("again")).manifest


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--json"], "error: the following arguments are required: MODEL; see cls-export --help\n"),
        (["m", "--no-fp32"], "error: --no-fp32 leaves nothing to write; add --fp16 or --int8\n"),
        (["m", "--layout", "other"], "error: argument --layout: expected one of standard, native, broadcast, found 'other'"),
        (["m", "--max-length", "0"], "error: max_length 0: expected at least 1 token\n"),
        (["m", "--max-length", "many"], "error: argument --max-length: found 'many', expected a whole number"),
        (["m", "--calibration", "c.txt"], "error: --calibration goes with --int8, whose scales it determines; found no --int8\n"),
        (["m", "--quantise"], "error: unknown option --quantise"),
        ([""], "error: MODEL '': expected a hub id"),
        (["/"], "error: MODEL '/': expected a hub id"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(fake, capsys, arguments, line):
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(line)
    assert captured.err.count("\n") == 1
    assert captured.out == ""
    assert not fake.calls


@pytest.mark.parametrize(
    ("error", "code"), [(CheckpointError("no weights"), 2), (ParityError("worst text 3"), 1), (KeyboardInterrupt(), 130)]
)
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_what_the_export_raises_is_one_line(fake, capsys, error, code, options):
    fake.error = error
    assert command.main(["org/tiny-bert", *options]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines()[-1] == f"error: {str(error) or 'interrupted'}"
    assert "Traceback" not in captured.err


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.mark.parametrize(("stream", "options", "shown"), [(Terminal, [], True), (Terminal, ["--json"], False), (io.StringIO, [], False)])
def test_a_bar_names_the_steps_on_a_terminal(fake, monkeypatch, stream, options, shown):
    monkeypatch.setattr(sys, "stderr", stream())
    assert command.main(["org/tiny-bert", "--int8", *options]) == 0
    text = sys.stderr.getvalue()
    for done, step in enumerate(("Loading", "Tracing", "Comparing")):
        assert (re.search(rf"{step}: +\d+%\|[^|]*\| {done}/10 ", text) is not None) is shown
    assert ("\r" in text) is shown


@pytest.mark.slow
def test_the_bar_knows_how_many_steps_there_are(store, tmp_path, traced_once):
    """The export itself says them here, on a checkpoint of two layers."""
    checkpoint = store.checkpoint("bert", "encoder")
    config = ExportConfig(precisions=("fp32", "fp16"))
    said = []
    exporting.export(checkpoint, tmp_path / "bundle", config=config, progress=said.append)
    assert len(said) == command.export_steps(config)


def test_a_missing_extra_names_the_pip_command(fake, capsys, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "onnx_ir") else real(name))
    assert command.main(["org/tiny-bert"]) == 2
    assert capsys.readouterr().err == (
        "error: exporting needs torch, onnx_ir, which cannot be found; run: pip install 'cls-export[export,cpu]'\n"
    )


def test_a_working_directory_that_is_gone(fake, tmp_path, capsys, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert command.main(["org/tiny-bert", "-o", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == "error: the working directory no longer exists, and PyTorch needs one; change to another\n"


def test_a_folder_without_a_name(fake, capsys):
    assert command.main(["org/tiny-bert", "-o", ""]) == 2
    assert fake.calls == []
    assert "argument -o: expected a folder, found an empty name" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("bert-base-uncased", "bert-base-uncased"),
        ("org/name", "name"),
        ("org/name/", "name"),
        ("org/name@v2", "name"),
        ("https://huggingface.co/org/name/tree/v2", "name"),
        ("/some/where/gone", "gone"),
    ],
)
def test_the_default_folder(model, expected):
    assert command.default_output(model) == Path("models") / expected


def test_the_default_folder_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my-checkpoint").mkdir()
    monkeypatch.chdir(tmp_path / "my-checkpoint")
    assert command.default_output(".") == Path("models/my-checkpoint")


def test_help_needs_neither_torch_nor_transformers():
    program = (
        "import sys; from cls_exporter import command; code = command.main(['--help'])\n"
        "loaded = sorted({'torch', 'transformers', 'onnx', 'onnxruntime'} & set(sys.modules)); sys.exit(str(loaded) if loaded else code)"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert "cls-export bert-base-uncased --int8" in finished.stdout
    for option in ExportConfig.__dataclass_fields__:
        if option != "precisions":
            assert f"--{option.replace('_', '-')}" in finished.stdout


def test_what_was_allowed_is_said_and_nothing_is_said_twice(tmp_path):
    plain = report(tmp_path / "bundle")
    pooling = SourcePooling(mode="mean", mismatch_allowed=True)
    manifest = dataclasses.replace(plain.manifest, source_pooling=pooling, pooler=Pooler(state="trained", evidence="bias exactly zero"))
    lines = command.summary_lines(dataclasses.replace(plain, manifest=manifest, notes=("look at the pooler: bias exactly zero",)))
    assert "  pooling   trained with mean pooling; exported with the CLS row, as requested" in lines
    assert "  pooler    trained" in lines
    assert "Files (12.3 kB)" in lines


@pytest.mark.parametrize(
    ("mode", "pooling", "line"),
    [
        ("mean", "mean", "the mean of the tokens' rows, as trained"),
        ("cls", "mean", "trained with cls pooling; exported with the mean of the tokens' rows, as requested"),
        ("max", "cls", "trained with max pooling; exported with the CLS row, as requested"),
        (None, "mean", "the mean of the tokens' rows, as requested; the checkpoint does not say how it was trained"),
        ("cls", "cls", None),
        (None, "cls", None),
    ],
)
def test_what_vectors_are_made_of(tmp_path, mode, pooling, line):
    plain = report(tmp_path / "bundle")
    source = SourcePooling(mode=mode, mismatch_allowed=mode not in (None, pooling))
    manifest = dataclasses.replace(plain.manifest, source_pooling=source, pooling=pooling)
    lines = command.summary_lines(dataclasses.replace(plain, manifest=manifest))
    assert [said for said in lines if said.startswith("  pooling ")] == ([f"  pooling   {line}"] if line else [])


@pytest.mark.parametrize(("exported", "said"), [(880, ["12% fewer"]), (990, ["1% fewer"]), (998, []), (1000, []), (1001, [])])
def test_work_that_is_saved(tmp_path, exported, said):
    plain = dataclasses.replace(report(tmp_path / "bundle"), multiply_adds={"full": 1000, "exported": exported})
    assert [line[12:21].strip() for line in command.summary_lines(plain) if line.startswith("  work ")] == said


@pytest.mark.parametrize(
    ("prompts", "default", "line"),
    [
        ({}, None, None),
        ({"query": "", "document": ""}, "query", None),
        ({"query": "q: ", "document": ""}, None, "query"),
        ({"query": "q: ", "passage": "p: "}, "query", "query, passage; query by default"),
        ({str(number): "p" for number in range(10)}, "9", "0, 1, 2, 3, 4, 5, 6, 7 and 2 more; 9 by default"),
    ],
)
def test_prompts_by_their_names(tmp_path, prompts, default, line):
    plain = report(tmp_path / "bundle")
    manifest = dataclasses.replace(plain.manifest, prompts=prompts, default_prompt_name=default)
    lines = command.summary_lines(dataclasses.replace(plain, manifest=manifest))
    assert [said for said in lines if said.startswith("  prompts ")] == ([f"  prompts   {line}"] if line else [])


@pytest.mark.parametrize(("choice", "line"), [("file", "tokenizer.json, unchanged"), ("transformers", "converted by transformers")])
def test_the_tokenizer_that_was_chosen_is_said(tmp_path, choice, line):
    plain = report(tmp_path / "bundle")
    chosen = dataclasses.replace(plain, manifest=dataclasses.replace(plain.manifest, tokenizer=choice))
    assert set(command.summary_lines(chosen)) - set(command.summary_lines(plain)) == {f"  tokenizer {line}, as requested"}
