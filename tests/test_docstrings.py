"""Every example of a docstring runs and gives what it shows, in a folder with a small bundle."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from code_blocks import figures_blanked
from stand_ins import BUNDLE, MODEL, TEXTS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "runtime" / "cls_runtime", ROOT / "exporter" / "cls_exporter")
# Examples that do not run here, by the beginning of their docstring's name, and why.
SKIPPED = {
    "cls_runtime.encoder.Encoder.of": "an engine of the reader's own",
    "cls_runtime.integrations.": "other programs, each in an environment of its own: make interop",
}
EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)
OF_A_MODEL = re.compile(rf">>> .*(?:{MODEL}|{BUNDLE}|\bencoder\b)")


def modules_with_examples() -> Iterator[tuple[str, str]]:
    """Each module that has one, and its source."""
    for package in PACKAGES:
        for path in sorted(package.rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            if EXAMPLE.search(source):
                name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
                yield name.removesuffix(".__init__"), source


MODULES = dict(modules_with_examples())


class OfAnotherModel(doctest.OutputChecker):
    """The examples show the figures of the real model; what runs is a smaller one of the same name."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return super().check_output(want, got, optionflags) or figures_blanked(want) == figures_blanked(got)


def imported(name: str) -> ModuleType:
    """A module, or a skipped test where its host is not installed: then a folder of tests may be found under the host's name."""
    return pytest.importorskip(name, exc_type=ImportError if name.startswith("cls_runtime.integrations.") else ModuleNotFoundError)


def examples_of(module: ModuleType) -> list[doctest.DocTest]:
    return [found for found in doctest.DocTestFinder(exclude_empty=True).find(module) if found.examples]


def uses_a_model(found: doctest.DocTest) -> bool:
    return any(OF_A_MODEL.search(f">>> {example.source}") for example in found.examples)


def cases() -> list[Any]:
    """Every module; those that load a model are slow, since somebody must make it."""
    return [pytest.param(name, marks=pytest.mark.slow) if OF_A_MODEL.search(source) else name for name, source in MODULES.items()]


@pytest.fixture
def names(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, object]]:
    """What the examples of an Encoder's methods use besides their module's names; their folder is a reader's."""
    from cls_runtime import Encoder

    monkeypatch.chdir(shutil.copytree(stand_ins, tmp_path / "reader"))
    with Encoder.load(BUNDLE) as encoder:
        yield {"encoder": encoder, "texts": list(TEXTS)}


@pytest.mark.parametrize("name", cases())
def test_the_examples_of_a_module_are_true(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.chdir(tmp_path)
    names = request.getfixturevalue("names") if OF_A_MODEL.search(MODULES[name]) else {}
    tests = examples_of(imported(name))
    assert tests, f"an example of {name} is in no docstring"
    for found in tests:
        found.globs |= {key: value for key, value in names.items() if key not in found.globs}
        runner = doctest.DocTestRunner(checker=OfAnotherModel() if uses_a_model(found) else None, optionflags=doctest.ELLIPSIS)
        told: list[str] = []
        assert runner.run(found, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", MODULES)
def test_few_examples_are_skipped(name: str) -> None:
    module = imported(name)
    skipping = [found.name for found in examples_of(module) if any(doctest.SKIP in example.options for example in found.examples)]
    assert [name for name in skipping if not name.startswith(tuple(SKIPPED))] == []


def test_examples_are_found() -> None:
    assert {"cls_runtime", "cls_runtime.encoder", "cls_runtime.bench.turns", "cls_exporter.exporting"} <= set(MODULES)
