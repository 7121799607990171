"""The pytest plugin: checks a bundle in a service's own tests.

    pytest --cls-bundle models/my-model

adds the checks of `cls-verify` to the run, one test item each, and the fixtures `cls_bundle`, `cls_encoder` and `assert_same_vectors`.
pytest finds it by the entry point group `pytest11` and imports it in every run, so this module imports nothing of the runtime by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cls_runtime.encoder import Encoder
    from cls_runtime.verifying.report import Planned
    from cls_runtime.verifying.verification import Verification

MARKER = "cls_bundle"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--cls-bundle`, `--cls-variant`, `--cls-engine` and `--cls-device`."""
    group = parser.getgroup("cls-export")
    group.addoption("--cls-bundle", metavar="DIR", type=Path, help="check this bundle as cls-verify does, and load it for cls_encoder")
    group.addoption("--cls-variant", metavar="V", help="check and load only this variant (default: check all, load auto)")
    group.addoption("--cls-engine", metavar="E", help="check and load only on this engine (default: check all installed, load auto)")
    group.addoption(
        "--cls-device", metavar="N", help="with --cls-engine cuda: the GPU, such as 1; several, such as 0,1; or all (default: the first)"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Registers the marker of the checks, so that `-m "not cls_bundle"` leaves them out."""
    config.addinivalue_line("markers", f"{MARKER}: a check of the bundle that --cls-bundle names")


@pytest.hookimpl(tryfirst=True)  # before -k and -m choose
def pytest_collection_modifyitems(session: pytest.Session, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Adds an item for each check of the bundle."""
    if config.option.cls_bundle is not None:
        items.extend(_checks(session, config.option.cls_bundle))


@pytest.fixture(scope="session")
def cls_bundle(request: pytest.FixtureRequest) -> Path:
    """The folder that `--cls-bundle` names.

    Raises:
        pytest.UsageError: the option is missing. Not a skip: a guard that skips guards nothing.
    """
    folder: Path | None = request.config.option.cls_bundle
    if folder is None:
        raise pytest.UsageError("no bundle to test; run pytest with --cls-bundle DIR, or add it to addopts")
    return folder


@pytest.fixture(scope="session")
def cls_encoder(cls_bundle: Path, request: pytest.FixtureRequest) -> Iterator[Encoder]:
    """An `Encoder` of the bundle, loaded once for the session."""
    from cls_runtime.encoder import Encoder

    option = request.config.option
    with Encoder.load(
        cls_bundle, variant=option.cls_variant or "auto", engine=option.cls_engine or "auto", device=option.cls_device
    ) as encoder:
        yield encoder


@pytest.fixture(scope="session")
def assert_same_vectors() -> Callable[..., None]:
    """`cls_runtime.assert_same_vectors`: fails unless vectors are within a variant's thresholds of those expected."""
    from cls_runtime.verifying.same_vectors import assert_same_vectors

    return assert_same_vectors


class BundleCollector(pytest.Collector):
    """The parent of a bundle's checks; it holds the variant that is loaded."""

    def __init__(self, *, verification: Verification | None, **node: Any) -> None:
        super().__init__(**node)
        self.verification = verification

    def collect(self) -> list[pytest.Item]:
        """The checks are made by the plugin itself."""
        return []

    def teardown(self) -> None:
        """Frees the engine after the last check."""
        if self.verification is not None:
            self.verification.close()


class BundleCheck(pytest.Item):
    """One check of the bundle. `refused` says why the bundle cannot be checked at all."""

    def __init__(self, *, planned: Planned | None, refused: str = "", **node: Any) -> None:
        super().__init__(**node)
        self._planned = planned
        self._refused = refused
        self.add_marker(MARKER)

    def runtest(self) -> None:
        """Runs the check; skips where the machine cannot run it."""
        parent = self.parent
        if self._planned is None or not isinstance(parent, BundleCollector) or parent.verification is None:
            raise DamagedBundleError(self._refused)
        check = parent.verification.run(self._planned)
        if check.skipped:
            pytest.skip(check.message)
        if not check.passed:
            raise DamagedBundleError(check.message)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """What is wrong with the bundle, without a traceback of this package."""
        if isinstance(excinfo.value, DamagedBundleError):
            return f"bundle {self.path}: {excinfo.value}"
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Where the check belongs: to the bundle's folder."""
        return self.path, None, f"{self.path.name}: {self.name}"


class DamagedBundleError(AssertionError):
    """A check of the bundle failed."""


def _checks(session: pytest.Session, folder: Path) -> list[pytest.Item]:
    """The items of a bundle; a single one that fails where it cannot even be opened."""
    from cls_runtime.errors import ClsError
    from cls_runtime.verifying.verification import Verification

    option = session.config.option
    place = {"path": folder.absolute(), "nodeid": folder.name}
    try:
        verification = Verification(
            folder,
            variants=None if option.cls_variant is None else [option.cls_variant],
            engines=None if option.cls_engine is None else [option.cls_engine],
            device=option.cls_device,
        )
    except ClsError as error:
        collector = BundleCollector.from_parent(session, name=folder.name, verification=None, **place)
        return [BundleCheck.from_parent(collector, name="open", planned=None, refused=str(error))]
    collector = BundleCollector.from_parent(session, name=folder.name, verification=verification, **place)
    items: list[pytest.Item] = []
    for planned in verification.plan:
        name = " ".join(part for part in (planned.variant, planned.engine, planned.name) if part)
        items.append(BundleCheck.from_parent(collector, name=name, planned=planned))
    return items
