"""The tiny bundle of tests/runtime, with golden vectors."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from golden_bundle import build_golden_bundle


@pytest.fixture(scope="session")
def golden_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny fp32 bundle with all outputs and golden vectors. Read-only by agreement: damage `own_bundle`."""
    return build_golden_bundle(tmp_path_factory.mktemp("commands") / "tiny")


@pytest.fixture
def own_bundle(golden_bundle: Path, tmp_path: Path) -> Path:
    """A copy of `golden_bundle` for one test."""
    return Path(shutil.copytree(golden_bundle, tmp_path / "own"))
