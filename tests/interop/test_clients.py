"""Clients of OpenAI, TEI, Cohere and Jina talk to cls-serve unchanged and get what `Encoder` gives. Run by `make interop`.

Each client has a program in its folder here, which asks in every way that it knows, and lines in docs/guides/serve.md, which are run as
they stand.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from client_servers import KEY, KINDS, QUERY, Servers
from client_snippets import Snippet, snippets
from expected_results import check
from snippets import ROOT

HERE = Path(__file__).parent
# The servers that each program asks.
PROGRAMS = {
    "chromadb": ("embedding",),
    "cohere": ("prompted", "reranker", "embedding"),
    "haystack": ("embedding", "reranker"),
    "huggingface_hub": KINDS,
    "langchain_openai": ("embedding", "prompted"),
    "litellm": ("embedding", "reranker", "prompted"),
    "llama_index": ("embedding",),
    "openai": ("embedding", "prompted"),
    "openai_js": ("embedding",),
}
# No client asks anybody but its server: no telemetry, no list of prices, no hub. HF_HUB_OFFLINE would keep it from that too.
OFFLINE = {
    "ANONYMIZED_TELEMETRY": "False",
    "HAYSTACK_TELEMETRY_ENABLED": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),  # where nobody is
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1"),
}
# Variables that would tell a client something else.
SETTINGS = ("CO_", "COHERE_", "HF_", "HUGGING", "OPENAI_", "PYTHON")


def run(environment: str, program: Path, result: str) -> Any:
    """Runs a program in a client's environment, in the program's folder, and reads the file that it writes."""
    home = ROOT / ".venv-interop" / environment
    if program.suffix == ".mjs":
        (program.parent / "node_modules").symlink_to(home / "node_modules")
        command = shutil.which("node") or "node"
    else:
        command = str(home / "bin" / "python")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(SETTINGS)}
    done = subprocess.run([command, program.name], cwd=program.parent, env={**kept, **OFFLINE}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return json.loads((program.parent / result).read_text(encoding="utf-8"))


@pytest.mark.parametrize("environment", [pytest.param(name, id=f"{name}-program") for name in PROGRAMS])
def test_every_answer_is_the_encoders(environment: str, servers: Servers, tmp_path: Path) -> None:
    (source,) = (HERE / environment).glob("program.*")
    for file in (source, HERE / "client_results.py"):
        shutil.copy(file, tmp_path)
    given = {kind: servers[kind].given() for kind in PROGRAMS[environment]}
    (tmp_path / "given.json").write_text(json.dumps(given), encoding="utf-8")
    records = run(environment, tmp_path / source.name, "results.json")
    assert {record["server"] for record in records} == set(PROGRAMS[environment])
    failed = {}
    for record in records:
        try:
            check(servers[record["server"]], record["kind"], record["value"], record["options"])
        except AssertionError as error:
            failed[f"{record['server']}: {record['kind']}, {record['how']}"] = str(error)
    assert not failed


@pytest.mark.parametrize("snippet", snippets(), ids=lambda snippet: snippet.name)
def test_the_pages_lines_give_the_encoders_results(snippet: Snippet, servers: Servers, tmp_path: Path) -> None:
    asked = servers[snippet.server]
    texts = asked.texts
    if snippet.result == "predictions":
        texts = texts[:1]
    elif snippet.environment == "llama_index":  # it changes the others before it sends them
        texts = [text for text in texts if text.strip() == text and "\n" not in text]
    program = tmp_path / f"program.{'mjs' if snippet.language == 'js' else 'py'}"
    program.write_text(snippet.program(url=asked.url, key=KEY, texts=texts, query=QUERY), encoding="utf-8")
    check(asked, snippet.result, run(snippet.environment, program, "result.json"), {"texts": texts})
