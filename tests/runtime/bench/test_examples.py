"""The examples in docstrings of the benchmark are true."""

import doctest
import importlib
from pathlib import Path

import pytest

import cls_runtime.bench

FOLDER = Path(cls_runtime.bench.__file__).parent
WITH_EXAMPLES = sorted(path.stem for path in FOLDER.glob("*.py") if ">>>" in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_are_true(name):
    outcome = doctest.testmod(importlib.import_module(f"cls_runtime.bench.{name}"))
    assert (outcome.failed, outcome.attempted > 0) == (0, True)


def test_there_are_examples():
    assert {"turns", "spread", "peers"} <= set(WITH_EXAMPLES)
