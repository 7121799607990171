"""The interpreters of the programs' environments: PyTorch, which takes seconds to import, is imported once in each."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from snippets import ROOT

# No telemetry, no hub.
OFFLINE = {"HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "HAYSTACK_TELEMETRY_ENABLED": "False"}


class Forks:
    """An environment's interpreter, which runs programs in forks of itself: see forks.py."""

    def __init__(self, environment: str) -> None:
        python = sys.executable if environment == "development" else ROOT / ".venv-interop" / environment / "bin" / "python"
        self._process = subprocess.Popen(
            [python, Path(__file__).with_name("forks.py")],
            env={**os.environ, **OFFLINE},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, program: Path) -> None:
        """Runs a program in its folder; what it prints is in the error where it fails."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(str(program)), file=self._process.stdin, flush=True)
        assert self._process.stdout.readline() == "0\n", program.with_name("output.txt").read_text(encoding="utf-8")

    def close(self) -> None:
        """Ends it: its input ends."""
        with self._process:
            pass


class Interpreters(dict[str, Forks]):
    """Those of all environments, each started when it is first asked for."""

    def __missing__(self, environment: str) -> Forks:
        self[environment] = Forks(environment)
        return self[environment]

    def __enter__(self) -> Interpreters:
        return self

    def __exit__(self, *_: Any) -> None:
        for forks in self.values():
            forks.close()
