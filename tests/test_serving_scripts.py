"""benchmarks/serving_bars.py and serving_peers.py on a tiny bundle: every bar is measured, and what a script says of a server is so.

Times of a tiny model on a machine that does other things mean nothing; what is lost, refused or different is held here.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import bench_report
import numpy as np
import pytest
import serving_bars
import serving_peers
from bundle_builder import build_bundle

from cls_runtime.bench import peer_environments
from cls_runtime.bench.cpu_split import cpu_split
from cls_runtime.bench.serving_rig import QUICK, Rig
from cls_runtime.bench.texts import docstring_sentences
from cls_runtime.bundle.manifest import read_manifest

pytest.importorskip("uvicorn")
pytest.importorskip("msgspec")
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_bundle(tmp_path_factory.mktemp("serving") / "tiny")


@pytest.fixture(scope="module")
def rig(bundle: Path) -> Rig:
    split = cpu_split()
    return Rig(bundle=bundle, variant="fp32", engine="auto", texts=docstring_sentences(80), threads=split.threads(2), cpus=split)


def measured(rig: Rig, key: str) -> dict[str, float | None]:
    amounts = dataclasses.replace(QUICK, overload_seconds=1.0, bulk_seconds=1.0)
    return {figure.name: figure.value for figure in serving_bars.all_bars()[key](rig, amounts).figures}


@pytest.mark.parametrize("key", ["generator", "overhead", "clients", "cold"])
def test_a_bar_of_time_is_measured(rig: Rig, key: str) -> None:
    figures = measured(rig, key)
    assert all(value is not None for value in figures.values())


def test_vectors_are_compared_bit_by_bit(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measured(rig, "vectors")
    assert figures["base64 rows that differ from aencode's"] == figures["JSON rows that differ"] == 0
    embedded = serving_bars.embedded
    monkeypatch.setattr(serving_bars, "embedded", lambda *given: [np.nextafter(row, np.float32(2)) for row in embedded(*given)])
    figures = measured(rig, "vectors")
    assert figures["base64 rows that differ from aencode's"] == 71


def test_under_overload_everything_is_answered_or_refused(rig: Rig) -> None:
    figures = measured(rig, "overload")
    assert figures["neither answered nor refused"] == figures["unanswered /live requests"] == 0
    assert figures["goodput relative to capacity"] is not None


def test_singles_beside_a_bulk(rig: Rig) -> None:
    figures = measured(rig, "bulk")
    assert figures["unanswered singles"] == 0
    assert figures["bulks answered"]


def test_connections(rig: Rig) -> None:
    figures = measured(rig, "connections")
    assert figures["active requests that failed"] == figures["idle connections without an answer afterwards"] == 0


def test_a_soak_has_resets_cut_bodies_and_bodies_that_are_too_large(rig: Rig) -> None:
    record = serving_bars.all_bars()["soak"](rig, QUICK)
    figures = {figure.name: figure.value for figure in record.figures}
    assert figures["requests with an unexpected result"] == 0
    assert figures["additional open files"] == 0
    for kind in ("bulk 200", "cut 3", "reset 3", "texts 200", "too large 413"):
        assert kind in record.how


def test_what_was_sent_before_the_signal_is_answered(rig: Rig) -> None:
    figures = measured(rig, "endings")
    assert figures["requests sent before the signal and not answered"] == figures["exit codes other than 0"] == 0
    assert figures["answered"]


def test_bars_are_chosen_kept_and_told(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "serving.json"
    given = ["serving_bars.py", str(bundle), "--variant", "fp32", "--quick", "--bars", "vectors", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", given)
    assert serving_bars.main() == 0
    assert "holds   vectors" in capsys.readouterr().out
    assert serving_bars.missed(path)[0] == "vectors: measured with --quick"
    assert "overload: not measured" in serving_bars.missed(path)
    assert serving_bars.table(serving_bars.read(path)).startswith("| test | figure | measured | bar |")
    assert bench_report.FIGURES["serving_bars"](path) == serving_bars.table(serving_bars.read(path))
    assert bench_report.FIGURES["serving_missed"](path) == "| test | figure | measured | bar |\n| --- | --- | --- | --- |"
    monkeypatch.setattr(sys, "argv", ["serving_bars.py", "no-bundle", "--quick"])
    assert serving_bars.main() == 2
    assert "error: " in capsys.readouterr().err


PEER = """
import http.server, json, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.answer({})

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["content-length"])))["input"]
        texts = [given] if isinstance(given, str) else given
        self.answer({"data": [{"embedding": VECTOR} for text in texts]})

    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *given):
        pass

http.server.ThreadingHTTPServer.request_queue_size = 1000
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest.fixture
def bench(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> serving_peers.Bench:
    """A comparison in which every text's vector by fp32 is one and the same, and infinity is a program of the test."""
    (tmp_path / "programs" / "infinity").mkdir(parents=True)
    for module in (peer_environments, serving_peers):
        monkeypatch.setattr(module, "programs", lambda: tmp_path / "programs")
    monkeypatch.setattr(serving_peers, "environment", lambda *_, **__: Path(sys.executable))
    return serving_peers.Bench(
        bundle=bundle,
        checkpoint=bundle,
        manifest=read_manifest(bundle),
        texts=["a text"] * serving_peers.PARITY_TEXTS,
        reference=np.ones((serving_peers.PARITY_TEXTS, 8), dtype=np.float32),
        split=cpu_split(),
        threads=1,
        environments=tmp_path,
        seconds=0.3,
        over_seconds=0.3,
    )


def test_another_server_is_measured_like_ours(bench: serving_peers.Bench, tmp_path: Path) -> None:
    (tmp_path / "programs" / "infinity" / "serve.py").write_text(PEER.replace("VECTOR", "[0.5] * 8"))
    side = serving_peers.measured(bench, "infinity:torch")
    assert side.failed is None
    assert (side.mean_cosine, side.over_refused) == (1.0, 0.0)
    assert side.capacity > 10
    assert side.p99_ms is not None


def test_a_server_with_other_vectors_is_not_timed(bench: serving_peers.Bench, tmp_path: Path) -> None:
    (tmp_path / "programs" / "infinity" / "serve.py").write_text(PEER.replace("VECTOR", "[1, 0, 0, 0, 0, 0, 0, 0]"))
    assert serving_peers.measured(bench, "infinity:torch").failed == "its vectors are others: mean cosine 0.3536, expected at least 0.95"


def test_a_server_that_does_not_start_is_in_the_table_with_its_reason(bench: serving_peers.Bench, tmp_path: Path) -> None:
    (tmp_path / "programs" / "infinity" / "serve.py").write_text("raise SystemExit('no such engine')")
    side = serving_peers.measured(bench, "infinity:onnx")
    assert side.failed == "the server ended with exit code 1 before it was ready: no such engine"
    held = serving_peers.Comparison(
        machine=serving_peers.this_host(), model="tiny", fingerprint="f", cpus="pinned", seconds=1, over_seconds=1, sides={side.name: side}
    )
    assert "| infinity:onnx | the server ended with exit code 1" in serving_peers.table(held)
    path = tmp_path / "peers.json"
    serving_peers.write_samples(path, held)
    assert serving_peers.read(path) == held
    assert bench_report.FIGURES["serving_peers"](path) == serving_peers.table(held)
    assert json.loads(path.read_text())["sides"]["infinity:onnx"]["failed"] == side.failed
