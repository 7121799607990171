"""Bundles and servers that the tests of other programs share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from client_servers import Servers

if TYPE_CHECKING:
    from prompted_bundles import Prompted


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Prompted:
    """Small models with prompts, each exported when it is first asked for."""
    from prompted_bundles import Prompted  # with PyTorch, which tests of clients do without

    return Prompted(tmp_path_factory.mktemp("prompted"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """cls-serve for the clients, a process a kind of bundle."""
    with Servers(tmp_path_factory.mktemp("served")) as servers:
        yield servers
