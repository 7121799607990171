"""`cls-bench`: what it writes, and that every mistake is one line, before anything is measured."""

import dataclasses
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from bench_results import FAST, RESULTS, SLOW
from bundle_builder import write_manifest

from cls_runtime.bench import matrix_rates, server_process
from cls_runtime.bench.peer_sides import PeerSide
from cls_runtime.bench.peers import PeerComparison
from cls_runtime.bench.plan import QUICK
from cls_runtime.bench.results import read_results, results_json
from cls_runtime.bundle.manifest import read_manifest
from cls_runtime.commands import bench, shell
from cls_runtime.errors import MissingExtraError, UsageError

TABLES = ("Throughput", "Latency", "Time by length", "Time by texts per call", "Throughput by threads", "Throughput by token budget")


def run(*arguments):
    return bench.main([str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def little_of_everything(monkeypatch):
    """One engine, and a plan that takes a second."""
    tiny = dataclasses.replace(
        QUICK,
        texts=6,
        rounds=1,
        sweep_rounds=1,
        length_tokens=16,
        call_sizes=(1,),
        token_budgets=(64,),
        callers=((1, 2),),
        rate_rounds=1,
        serve_seconds=0.3,
        serve_shares=(0.5, 1.2),
        round_seconds=1e9,  # however slow the machine is, it does all of the above
    )
    monkeypatch.setattr(bench, "QUICK", tiny)
    monkeypatch.setattr(matrix_rates, "SEQUENCE", 16)
    monkeypatch.setattr("cls_runtime.verifying.plan.installed_engines", lambda: ("onnxruntime",))


@pytest.fixture
def results_file(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(results_json(RESULTS))
    return path


@pytest.fixture
def measured(monkeypatch):
    """Fails the test where anything is measured."""
    monkeypatch.setattr(bench, "run_benchmark", lambda *_, **__: pytest.fail("measured"))


def test_tables_on_the_terminal_and_every_sample_in_the_file(golden_bundle, tmp_path, capsys):
    out = tmp_path / "result.json"
    assert run(golden_bundle, "--quick", "--threads", 1, "--json", out) == 0
    captured = capsys.readouterr()
    for title in (*TABLES, "Padding", "Cold start and memory", "Parity", "Matrix multiplication rates"):
        assert f"\n{title}\n" in captured.out
    assert captured.err == ""
    results = read_results(out)
    assert results.bundle.fingerprint == read_manifest(golden_bundle).fingerprint
    assert results.settings.threads == 1
    assert results.texts.origin == "Python's own docstrings"
    assert [item.name for item in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize("option", [["--json"], ["--json", "-"]])
def test_json_on_standard_output_is_one_document_and_nothing_else(golden_bundle, option, capsys):
    assert run(golden_bundle, "--quick", *option) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["results_version"] == 1
    assert all(item["seconds"] for item in document["timings"])


@pytest.mark.slow
def test_a_server_is_measured_beside_the_encoder(golden_bundle, tmp_path, capsys):
    """The server, the generator, the Encoder and the responder are processes of their own."""
    pytest.importorskip("uvicorn")
    pytest.importorskip("msgspec")
    out = tmp_path / "result.json"
    assert run(golden_bundle, "--quick", "--serve", "--threads", 1, "--json", out) == 0
    assert "\nServing\n" in capsys.readouterr().out
    (served,) = read_results(out).serving
    assert served.side == "fp32 on onnxruntime"
    assert [rate.share for rate in served.rates] == [0.5, 1.2]
    assert all(rate.failed == 0 and len(rate.answered_s) + len(rate.refused_s) > 0 for rate in served.rates)
    assert served.capacity > 0
    assert served.trivial_capacity > served.capacity
    assert served.encode_s


@pytest.mark.parametrize("missing", ["uvicorn", "msgspec"])
def test_a_server_needs_its_extra_which_is_said_before_anything_is_measured(golden_bundle, missing, measured, monkeypatch, capsys):
    monkeypatch.setattr(server_process, "find_spec", lambda name: None if name == missing else object())
    assert run(golden_bundle, "--quick", "--serve") == MissingExtraError.exit_code
    assert capsys.readouterr().err == f"error: --serve needs {missing}; run: pip install 'cls-export[serve]'\n"
    assert run("--from", "result.json", "--serve") == UsageError.exit_code


def test_texts_of_ones_own(golden_bundle, tmp_path, capsys):
    texts = tmp_path / "mine.txt"
    texts.write_text("the cat sleeps\na dog\nruns\n")
    assert run(golden_bundle, "--quick", "--texts", texts, "--count", 2, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["texts"]["origin"], len(document["texts"]["token_counts"])) == ("mine.txt", 2)


def test_a_results_file_is_reported_without_measuring(results_file, tmp_path, measured, capsys):
    pytest.importorskip("matplotlib")
    html, plot = tmp_path / "report.html", tmp_path / "plot.svg"
    assert run("--from", results_file, "--html", html, "--plot", plot) == 0
    assert FAST in capsys.readouterr().out
    assert html.read_text().startswith("<!DOCTYPE html>")
    assert plot.read_bytes().startswith(b"<?xml")


def test_a_results_file_gives_itself_again(results_file, measured, capsys):
    assert run("--from", results_file, "--json") == 0
    assert capsys.readouterr().out == results_file.read_text()


def test_the_samples_are_kept_when_the_reader_of_the_tables_goes_away(results_file, tmp_path, measured, monkeypatch, capsys):
    """With `capsys`, since the command gives up the file behind standard output, which is pytest's own otherwise."""

    def gone(line):
        raise BrokenPipeError

    monkeypatch.setattr(shell, "say", gone)
    out = tmp_path / "again.json"
    assert run("--from", results_file, "--json", out) == 141
    assert out.read_text() == results_file.read_text()


@pytest.mark.parametrize("option", ["--json", "--plot", "--html"])
@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("own/golden.npz", "is in "),
        ("own/new.svg", "is in "),
        ("bundle.svg", "is in "),
        ("hard.svg", "by another name"),
        ("mine.txt", "is the file "),
        ("mine.svg", "is the file "),
        ("checkpoint/config.json", "is in "),
    ],
)
def test_reports_replace_nothing_that_is_read(own_bundle, tmp_path, measured, capsys, option, target, message):
    (tmp_path / "mine.txt").write_text("a text\n")
    (tmp_path / "mine.svg").symlink_to(tmp_path / "mine.txt")
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "bundle.svg").symlink_to(own_bundle / "report.svg")
    os.link(own_bundle / "golden.npz", tmp_path / "hard.svg")
    before = sorted(path.name for path in tmp_path.rglob("*"))
    arguments = ["--texts", tmp_path / "mine.txt", "--against", "fastembed", "--checkpoint", tmp_path / "checkpoint"]
    assert run(own_bundle, *arguments, option, tmp_path / target) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {option} {tmp_path / target} is ")
    assert message in error
    assert error.count("\n") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def test_the_results_file_stays_what_it_is(results_file, measured, capsys):
    before = results_file.read_bytes()
    assert run("--from", results_file, "--html", results_file) == 2
    assert "is the file " in capsys.readouterr().err
    assert results_file.read_bytes() == before


def test_two_reports_are_two_files(results_file, tmp_path, measured, capsys):
    (tmp_path / "link.svg").symlink_to(tmp_path / "page.svg")
    assert run("--from", results_file, "--plot", tmp_path / "page.svg", "--html", tmp_path / "link.svg") == 2
    assert f"error: --html {tmp_path}/link.svg is also the file of --plot; choose another name\n" == capsys.readouterr().err


def test_help_has_examples(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "cls-bench models/my-model --quick" in out
    assert "exit codes:" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json"], "expected a BUNDLE to measure, or --from FILE"),
        (["BUNDLE", "--from", "RESULTS"], "expected a BUNDLE to measure, or --from FILE"),
        (
            ["--from", "RESULTS", "--quick", "--rounds", "2"],
            "--rounds, --quick go with a BUNDLE to measure, --from measures nothing; found --from ",
        ),
        (["--from", "nothing.json"], "results file nothing.json does not exist"),
        (["BUNDLE", "--json", "no/such/folder.json"], "--json no/such/folder.json: the folder no/such does not exist"),
        (["BUNDLE", "--html", "."], "--html . is a folder"),
        (["BUNDLE", "--plot", "plot.pdf"], "--plot plot.pdf: expected a name that ends in .png or .svg"),
        (["BUNDLE", "--texts", "EMPTY"], "has no texts"),
        (["BUNDLE", "--texts", "nothing.txt"], "nothing.txt"),
        (["BUNDLE", "--variant", "int8"], "the bundle has no variant 'int8'"),
        (["BUNDLE", "--against", "word2vec"], "unknown peer 'word2vec'; expected one of transformers,"),
        (["BUNDLE", "--against", "fastembed:fast"], "unknown peer 'fastembed:fast'; expected one of fastembed:fp32"),
        (["BUNDLE", "--against", "fastembed"], "--against needs --checkpoint"),
        (["BUNDLE", "--checkpoint", "x"], "--checkpoint goes with --against; found no --against"),
        (["BUNDLE", "--device", "1"], "--device goes with --engine cuda, which computes on a GPU; found no --engine"),
        (["BUNDLE", "--device", "1", "--engine", "onnxruntime", "--engine", "openvino"], "found --engine onnxruntime --engine openvino"),
        (["BUNDLE", "--engine", "tensorrt"], "engine tensorrt was taken out"),
        (["BUNDLE", "--rounds", "0"], "'0' is not a whole number of at least 1"),
        (["no-such-bundle"], "no-such-bundle"),
    ],
)
def test_a_mistake_is_one_line_before_anything_is_measured(arguments, message, golden_bundle, results_file, tmp_path, measured, capsys):
    (tmp_path / "empty.txt").write_text("")
    names = {"BUNDLE": golden_bundle, "RESULTS": results_file, "EMPTY": tmp_path / "empty.txt"}
    assert run(*(names.get(argument, argument) for argument in arguments)) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    assert message in captured.err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw["timings"][0].update(seconds=[]), "has the samples ()"),
        (lambda raw: raw["timings"][0].update(seconds=[0.0]), "has the samples (0.0, "),
        (lambda raw: raw["latencies"][0].update(seconds=[1e308]), "has the samples (1e+308, "),
        (lambda raw: raw["timings"][0].update(texts=0), "expected numbers from 1e-09 to 1e+18"),
        (lambda raw: raw["texts"].update(token_counts=[-1]), "has the samples (-1,)"),
        (lambda raw: raw["starts"][0].update(peak_bytes=[]), "has the samples ()"),
        (lambda raw: raw["rates"][0].update(seconds=[float("nan")]), "Out of range float values"),
        (lambda raw: raw["parity"][0].update(cosines=[5.0]), "has the cosines (5.0,)"),
        (lambda raw: raw["timings"][0].update(side="x on y"), "has a record of 'x on y', which is not among its sides"),
        (lambda raw: raw["sides"][0].update(name="$\\frac{$"), "which is no variant on an engine"),
    ],
)
def test_a_results_file_that_no_benchmark_wrote_is_one_line(results_file, tmp_path, measured, capsys, change, message):
    raw = json.loads(results_file.read_text())
    change(raw)
    results_file.write_text(json.dumps(raw))
    assert run("--from", results_file, "--json", tmp_path / "again.json") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert message in error
    assert "unexpected" not in error


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="no such device")
def test_a_results_file_without_end_is_not_read(tmp_path, measured, capsys):
    (tmp_path / "endless.json").symlink_to("/dev/zero")
    assert run("--from", tmp_path / "endless.json") == 2
    assert "it has more than 67,108,864 bytes" in capsys.readouterr().err


def test_another_versions_results_file_is_refused(results_file, capsys):
    results_file.write_text(results_file.read_text().replace('"results_version": 1', '"results_version": 7'))
    assert run("--from", results_file) == 2
    assert "results version 7, this version of cls-export reads 1" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform == "win32", reason="folders cannot be made read-only there")
def test_a_folder_that_cannot_be_written_to(golden_bundle, measured, capsys):
    assert run(golden_bundle, "--json", "/proc/result.json") == 2
    assert "--json /proc/result.json: the folder /proc cannot be written to" in capsys.readouterr().err


def test_without_the_extra_nothing_is_measured(golden_bundle, tmp_path, measured, monkeypatch, capsys):
    monkeypatch.setattr("cls_runtime.bench.plots.find_spec", lambda _: None)
    assert run(golden_bundle, "--html", tmp_path / "report.html") == 2
    assert capsys.readouterr().err == "error: plots and HTML reports need matplotlib; run: pip install cls-export[bench]\n"


def test_peers_are_compared_with_the_same_texts_and_threads(golden_bundle, tmp_path, monkeypatch, capsys):
    asked = {}

    def compare(bundle, **options):
        asked.update(options)
        options["progress"]("round 1 of 1")
        side = PeerSide(name="cls-export:onnxruntime:fp32", versions={}, seconds=(1.0,), texts_per_second=6.0)
        failed = PeerSide(name="fastembed:int8", versions={}, failed="cannot be installed: no network")
        return PeerComparison(texts=6, mean_tokens=5.0, threads=1, reference=side.name, sides=(side, failed), ratios=())

    monkeypatch.setattr(bench, "compare_with_peers", compare)
    out = tmp_path / "result.json"
    arguments = ["--quick", "--threads", 1, "--against", "fastembed:int8", "--checkpoint", tmp_path / "checkpoint", "--json", out]
    assert run(golden_bundle, *arguments) == 0
    assert (asked["peers"], asked["ours"], asked["threads"], asked["rounds"]) == (["fastembed:int8"], ["onnxruntime:fp32"], 1, 1)
    assert asked["checkpoint"] == str(tmp_path / "checkpoint")
    assert len(asked["texts"]) == 6
    assert "fastembed:int8               cannot be installed: no network" in capsys.readouterr().out
    assert read_results(out).peers.sides[1].failed == "cannot be installed: no network"


def test_a_bundle_that_no_peer_is_like_is_refused_before_it_is_measured(golden_bundle, tmp_path, capsys):
    bundle = shutil.copytree(golden_bundle, tmp_path / "dense")
    manifest = read_manifest(bundle)
    dense = dataclasses.replace(manifest.source_pooling, dense=("2_Dense: 8 to 8, Tanh",))
    write_manifest(bundle, dataclasses.replace(manifest, source_pooling=dense, fingerprint=""))
    assert run(bundle, "--quick", "--against", "fastembed", "--checkpoint", tmp_path) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(
        "error: the peers' programs end with the pooling, this bundle's vectors go through Dense layers after it"
    )
    assert captured.out == ""


def test_the_measured_sides_are_in_the_order_of_the_bundle(results_file, measured, capsys):
    assert run("--from", results_file) == 0
    out = capsys.readouterr().out
    assert out.index(SLOW) < out.index(FAST)
