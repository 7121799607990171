"""The programs of examples/ do what they say, on a tiny bundle; the notebook is executed on a small checkpoint."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from bundle_builder import build_bundle
from golden_bundle import build_golden_bundle

from cls_runtime import Encoder

pytest.importorskip("onnxruntime")

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples"
TEXTS = ["the cat sleeps", "a dog", "running"]


def program(path: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, EXAMPLES / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # pydantic looks its annotations up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return build_golden_bundle(tmp_path / "bundle")


def test_every_example_is_in_the_table() -> None:
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    there = {path.name for path in EXAMPLES.iterdir() if path.name != "README.md"}
    assert [name for name in there if f"]({name}" not in table] == []


@pytest.fixture
def service(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    pytest.importorskip("fastapi")
    monkeypatch.setenv("BUNDLE", str(bundle))
    return program("fastapi_service/service.py")


@pytest.fixture
def client(service: ModuleType) -> Iterator[Any]:
    from fastapi.testclient import TestClient

    with TestClient(service.app) as client:
        yield client


def test_the_service_returns_the_models_vectors(client: Any, service: ModuleType) -> None:
    answer = client.post("/embed", json={"texts": TEXTS}).json()
    expected = service.app.state.encoder.encode(TEXTS)
    assert np.abs(np.array(answer["vectors"]) - expected).max() <= 1e-5
    assert answer["truncated"] == []
    assert client.post("/embed", json={"texts": ["cat " * 100, "a dog"]}).json()["truncated"] == [0]
    assert client.get("/healthz").json()["fingerprint"] == service.app.state.encoder.manifest.fingerprint


@pytest.mark.parametrize("kind", ["query", "document"])
def test_the_service_takes_no_other_prompt_than_that_of_the_kind(
    client: Any, service: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    other = "document" if kind == "query" else "query"
    folder = build_bundle(tmp_path / "prompted", prompts={other: "the cat "}, default_prompt_name=other)
    with Encoder.load(folder) as prompted:
        monkeypatch.setattr(service.app.state, "encoder", prompted)
        for asked, prompt in ((kind, ""), (other, "the cat ")):
            answer = client.post("/embed", json={"texts": TEXTS, "kind": asked}).json()
            assert np.abs(np.array(answer["vectors"]) - prompted.encode(TEXTS, prompt=prompt)).max() <= 1e-5


BAD_BODIES: list[dict[str, Any]] = [{}, {"texts": "a text"}, {"texts": [1]}, {"texts": ["x"] * 65}, {"texts": ["x"], "kind": "other"}]


@pytest.mark.parametrize("body", BAD_BODIES)
def test_the_service_refuses_what_it_cannot_embed(client: Any, body: dict[str, Any]) -> None:
    assert client.post("/embed", json=body).status_code == 422


def test_the_service_refuses_half_a_character(client: Any) -> None:
    assert client.post("/embed", content=b'{"texts": ["\\ud800"]}', headers={"content-type": "application/json"}).status_code == 422


def test_the_service_says_that_it_is_too_slow_or_full(
    client: Any, service: ModuleType, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "DEADLINE_S", 1e-9)
    assert client.post("/embed", json={"texts": TEXTS}).status_code == 504
    monkeypatch.setattr(service, "DEADLINE_S", 5.0)
    with Encoder.load(bundle, max_waiting_texts=1) as full:
        monkeypatch.setattr(service.app.state, "encoder", full)
        refused = client.post("/embed", json={"texts": TEXTS})
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


def database_of(path: Path, texts: list[str | None]) -> sqlite3.Connection:
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, text TEXT)")
    database.executemany("INSERT INTO documents (text) VALUES (?)", [(text,) for text in texts])
    database.commit()
    return database


def test_the_job_embeds_what_is_new_and_goes_on_after_it_was_killed(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = program("batch_job/job.py")
    monkeypatch.setattr(job, "BLOCK_ROWS", 2)
    database = database_of(tmp_path / "documents.db", [*TEXTS, None, "cat", "dog"])
    with Encoder.load(bundle) as encoder:
        blocks = 0

        def killed_in_the_second_block(texts: list[str]) -> Any:
            nonlocal blocks
            blocks += 1
            if blocks == 2:
                raise KeyboardInterrupt
            return encoder.encode_document(texts)

        class Killed:
            manifest = encoder.manifest
            encode_document = staticmethod(killed_in_the_second_block)

        with pytest.raises(KeyboardInterrupt):
            job.embed_new_rows(database, Killed())
        assert database.execute("SELECT count(*) FROM embeddings").fetchone() == (2,)
        assert job.embed_new_rows(database, encoder) == 3
        assert job.embed_new_rows(database, encoder) == 0
        rows = database.execute("SELECT text, vector FROM embeddings JOIN documents USING (id) ORDER BY id").fetchall()
        vectors = np.array([np.frombuffer(vector, np.float32) for _, vector in rows])
        assert np.abs(vectors - encoder.encode([text for text, _ in rows])).max() <= 1e-5
    database.close()


def test_the_job_asks_the_database_for_each_row_once(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = program("batch_job/job.py")
    monkeypatch.setattr(job, "BLOCK_ROWS", 2)
    with closing(database_of(tmp_path / "documents.db", [])) as database, Encoder.load(bundle) as encoder:
        database.executemany("INSERT INTO documents VALUES (?, ?)", [(number - 50, "cat") for number in range(100)])
        assert job.embed_new_rows(database, encoder) == 100
        plan = database.execute(f"EXPLAIN QUERY PLAN {job.PENDING}", (0, "model", 2)).fetchall()
        assert all("SCAN" not in step for *_, step in plan), plan


def test_the_job_as_a_command(bundle: Path, tmp_path: Path) -> None:
    database_of(tmp_path / "documents.db", [*TEXTS]).close()
    command = [sys.executable, "-W", "error", str(EXAMPLES / "batch_job" / "job.py"), str(tmp_path / "documents.db"), str(bundle)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("3 rows embedded with ")


@pytest.mark.parametrize(("database", "found"), [("none.db", "unable to open database file"), ("empty.db", "no such table: documents")])
def test_the_job_says_what_is_missing(bundle: Path, tmp_path: Path, database: str, found: str) -> None:
    sqlite3.connect(tmp_path / "empty.db").close()
    (tmp_path / "empty.db").touch()
    job = program("batch_job/job.py")
    with pytest.raises(SystemExit, match=f"error: {found}"):
        job.main([str(tmp_path / database), str(bundle)])
    assert not (tmp_path / "none.db").exists()


def test_the_service_says_that_it_needs_a_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    monkeypatch.delenv("BUNDLE", raising=False)
    with pytest.raises(RuntimeError, match="BUNDLE is not set"), TestClient(program("fastapi_service/service.py").app):
        pass


def parity_run(bundle: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    shutil.copy(EXAMPLES / "ci_parity" / "test_parity.py", folder)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--cls-bundle", str(bundle), "test_parity.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_guard_passes_and_a_damaged_model_fails_it(bundle: Path, tmp_path: Path) -> None:
    done = parity_run(bundle, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    graph = bundle / "onnx" / "model.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert parity_run(bundle, tmp_path).returncode == 1


def test_the_workflow_uses_the_action_as_it_is() -> None:
    yaml = pytest.importorskip("yaml")
    workflow = yaml.safe_load((EXAMPLES / "ci_parity" / "workflow.yml").read_text(encoding="utf-8"))
    action = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
    (step,) = [step for step in workflow["jobs"]["parity"]["steps"] if "cls-export@" in step.get("uses", "")]
    assert set(step["with"]) <= set(action["inputs"])
    assert f"steps.{step['id']}.outputs.path" in str(workflow)
    assert "path" in action["outputs"]


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("torch")
    from checkpoints import make_checkpoint

    monkeypatch.setenv("MODEL", str(make_checkpoint(tmp_path / "checkpoint")))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(EXAMPLES / "tour.ipynb", as_version=4)
    assert all(not cell.outputs for cell in notebook.cells if cell.cell_type == "code"), "store it without outputs"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(output.get("text", "") for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    assert "lowest cosine to PyTorch" in printed
    assert "2 vectors" in printed
