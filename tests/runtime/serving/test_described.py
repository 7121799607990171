"""schemathesis asks for all that /openapi.json describes and for what it does not: the server never fails, nor answers in another way.

`make test` makes the environment that it runs in.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from bundle_builder import build_bundle
from served import Running, running

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = ROOT / ".venv-described" / "bin" / "st"
# Left out is that every body which fits its schema is taken: that a list is not empty or a prompt is there, no schema says.
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "response_headers_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "ignored_auth",
)
EXAMPLES = 30
KEY = "a-key"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM.exists(), reason="no .venv-described: `make .venv-described/.installed` makes it"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A model of each kind, so that every endpoint has one that answers; and a key."""
    folder = tmp_path_factory.mktemp("described")
    keys = folder / "keys"
    keys.write_text(f"{KEY}\n")
    bundles = [
        build_bundle(folder / "embeds", outputs=("sentence_embedding",), prompts={"query": "cat "}, matryoshka_dims=(4,)),
        build_bundle(folder / "classifies"),
        build_bundle(folder / "ranks", label_count=1),
    ]
    with running(*bundles, "--threads", "2", "--api-key-file", keys, log=folder / "log") as server:
        yield server


def asked(document: str, server: Running, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """What schemathesis finds; the same requests each time."""
    command = [
        *(str(PROGRAM), "--no-color", "run", document, "--url", server.url, "--header", f"Authorization: Bearer {KEY}"),
        *("--mode", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic"),
        *("--checks", ",".join(CHECKS), "--continue-on-failure", "--warnings", "off", "--workers", "2", *options),
    ]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ | {"NO_PROXY": "127.0.0.1"})


def test_every_answer_is_described_and_none_is_a_failure(server: Running, tmp_path: Path) -> None:
    found = asked(f"{server.url}/openapi.json", server, tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    assert "No issues found" in found.stdout
    assert "Traceback" not in server.log.read_text()


def test_a_description_that_leaves_something_out_is_found(server: Running, tmp_path: Path) -> None:
    """The check can fail: a status that is not described, and a field that is not in the answer."""
    document = server.ask("/openapi.json").json
    del document["paths"]["/v1/embeddings"]["post"]["responses"]["400"]
    document["components"]["schemas"]["Usage"]["required"].append("no_such_field")
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(document))
    found = asked(str(path), server, tmp_path, "--include-path", "/v1/embeddings")
    assert found.returncode == 1, found.stdout + found.stderr
    assert "Undocumented status code" in found.stdout
    assert "no_such_field" in found.stdout
