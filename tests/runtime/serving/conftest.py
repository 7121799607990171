"""Servers of tiny bundles; without the extra `serve` there is nothing here to test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from cls_runtime import Encoder

if TYPE_CHECKING:
    from served import Running, Served

NEEDED = ("uvicorn", "httptools", "starlette", "msgspec", "orjson", "prometheus_client")
if not all(find_spec(name) for name in NEEDED):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session")
def served(trained: Path) -> Iterator[Served]:
    """`trained` (prompts `query`, and `document` before every text that names none; unit vectors; 8 numbers or 4) in this process."""
    from served import Served

    with Served.of(trained, model_names=("tiny",)) as served:
        yield served


@pytest.fixture(scope="session")
def plain_served(bundle: Path) -> Iterator[Served]:
    """`bundle` (no prompts, no unit vectors, 8 numbers; logits of three labels) in this process."""
    from served import Served

    with Served.of(bundle, model_names=("plain",)) as served:
        yield served


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """`Served.of`, closed behind the test: `serve(bundle, max_inputs=4)`."""
    from served import Served

    made: list[Served] = []

    def make(*bundles: Path, **options: Any) -> Served:
        made.append(Served.of(*bundles, **options))
        return made[-1]

    yield make
    for server in made:
        server.close()


@pytest.fixture
def served_watched(watched: Encoder) -> Iterator[Served]:
    """A server on `watched`, whose engine a test holds up or lets fail through `watched_engine.around`."""
    from served import Served

    with Served.on(watched) as served:
        yield served


@pytest.fixture(scope="module")
def real_server(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """`cls-serve` of `trained` in a process of its own."""
    from served import running

    with running(trained, "--threads", "2", log=tmp_path_factory.mktemp("server") / "log") as server:
        yield server
