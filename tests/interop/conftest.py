"""Bundles that the tests of other programs share."""

from __future__ import annotations

import pytest
from prompted_bundles import Prompted


@pytest.fixture(scope="session")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Prompted:
    """Small models with prompts, each exported when it is first asked for."""
    return Prompted(tmp_path_factory.mktemp("prompted"))
