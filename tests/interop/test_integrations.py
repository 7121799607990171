"""cls_runtime's integrations in their hosts' environments: prompts, options, bad input, storing, searching. Run by `make interop`.

Each host's folder has a program `integration.py` that checks the integration against `Encoder` and ends with an error where one differs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from golden_bundle import build_golden_bundle
from interpreters import OFFLINE
from snippets import ROOT

HERE = Path(__file__).parent
HOSTS = sorted(path.parent.name for path in HERE.glob("*/integration.py"))
# No host asks anybody for anything.
ALONE = {**OFFLINE, **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9")}  # where nobody is


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny bundle with prompts, unit vectors and a size to cut them to."""
    prompts = {"query": "the cat, ", "document": "a dog: "}
    folder = tmp_path_factory.mktemp("bundle") / "trained"
    return build_golden_bundle(folder, normalize=True, prompts=prompts, default_prompt_name="document", matryoshka_dims=(4,), max_length=64)


@pytest.mark.parametrize("host", HOSTS)
def test_the_vectors_are_the_encoders(host: str, bundle: Path, tmp_path: Path) -> None:
    for file in (HERE / host / "integration.py", HERE / "integration_results.py"):
        shutil.copy(file, tmp_path)
    python = ROOT / ".venv-interop" / host / "bin" / "python"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHON"))}
    command = [python, "integration.py", str(bundle)]
    done = subprocess.run(command, cwd=tmp_path, env={**kept, **ALONE}, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
