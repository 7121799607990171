"""Bundles and servers that the tests of other programs share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from client_servers import Servers
from interpreters import Interpreters


@pytest.fixture(scope="session")
def interpreters() -> Iterator[Interpreters]:
    """Those of the programs' environments."""
    with Interpreters() as interpreters:
        yield interpreters


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """cls-serve for the clients, a process a kind of bundle."""
    with Servers(tmp_path_factory.mktemp("served")) as servers:
        yield servers
