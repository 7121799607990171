"""Every example of a docstring runs and gives what it shows, in a folder with a small bundle."""

from __future__ import annotations

import doctest
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from code_blocks import figures_blanked
from made_once import made_once
from stand_ins import BUNDLE, MODEL, TEXTS, make_stand_ins

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (ROOT / "runtime" / "cls_runtime", ROOT / "exporter" / "cls_exporter")
# Examples that do not run here, by the beginning of their docstring's name, and why.
SKIPPED = {
    "cls_runtime.encoder.Encoder.of": "an engine of the reader's own",
    "cls_runtime.integrations.": "other programs, each in an environment of its own: make interop",
}
EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)


def modules_with_examples() -> list[str]:
    sources = [
        (package, path)
        for package in PACKAGES
        for path in sorted(package.rglob("*.py"))
        if EXAMPLE.search(path.read_text(encoding="utf-8"))
    ]
    return [".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__") for package, path in sources]


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
    return any(re.search(rf"{MODEL}|{BUNDLE}|\bencoder\b", example.source) for example in found.examples)


@pytest.fixture(scope="module")
def stand_ins(shared: Path) -> Path:
    for module in ("torch", "onnxruntime", "pyarrow"):
        pytest.importorskip(module)
    return made_once(shared / "stand-ins", make_stand_ins)


@pytest.fixture
def folder(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(shutil.copytree(stand_ins, tmp_path / "reader"))
    return tmp_path


@pytest.fixture
def names(folder: Path) -> Iterator[dict[str, object]]:
    """What the examples of an Encoder's methods use besides their module's names."""
    from cls_runtime import Encoder

    with Encoder.load(BUNDLE) as encoder:
        yield {"encoder": encoder, "texts": list(TEXTS)}


@pytest.mark.slow
@pytest.mark.parametrize("name", modules_with_examples())
def test_the_examples_of_a_module_are_true(name: str, names: dict[str, object]) -> None:
    tests = examples_of(imported(name))
    assert tests, f"an example of {name} is in no docstring"
    for found in tests:
        found.globs |= {key: value for key, value in names.items() if key not in found.globs}
        runner = doctest.DocTestRunner(checker=OfAnotherModel() if uses_a_model(found) else None, optionflags=doctest.ELLIPSIS)
        told: list[str] = []
        assert runner.run(found, out=told.append).failed == 0, "".join(told)


@pytest.mark.parametrize("name", modules_with_examples())
def test_few_examples_are_skipped(name: str) -> None:
    module = imported(name)
    skipping = [found.name for found in examples_of(module) if any(doctest.SKIP in example.options for example in found.examples)]
    unexplained = [name for name in skipping if not name.startswith(tuple(SKIPPED))]
    assert unexplained == []
