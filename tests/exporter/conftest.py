"""What the exporter's tests share: PyTorch on one thread, and a store of traced and exported small checkpoints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from exports import Exported, ExportStore, FamilyKind

from cls_exporter import exporting


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small models lose more by waiting for a second thread than it computes for them."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def store(shared: Path) -> Iterator[ExportStore]:
    """The session's store."""
    store = ExportStore(shared / "exports")
    yield store
    store.check_untouched()


@pytest.fixture(scope="session")
def exported_family(store: ExportStore) -> Callable[[str, FamilyKind], Exported]:
    """(family, `encoder` or `classifier`) -> its checkpoint and bundle, with every output and variant; read-only by agreement."""
    return store.exported


@pytest.fixture
def traced_once(store: ExportStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets `export()` take a graph from the store where the same checkpoint was traced before."""
    monkeypatch.setattr(exporting, "trace", store.trace)
