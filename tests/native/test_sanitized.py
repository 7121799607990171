"""The C++ tests under sanitizers: every program of native/tests for addresses and undefined behaviour, those of threads for races too."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from native_programs import PROGRAMS, run

NAMES = sorted(path.stem for path in PROGRAMS.glob("*.cpp"))
# A few seconds in CI; `make fuzz` says more.
FUZZ_CASES = int(os.environ.get("KERNEL_FUZZ_CASES", "20000"))
OF_A_MODEL = 500  # as much work as so many cases of one kernel
# Less than without sanitizers: rounds, models, and of `functions` how many floats are passed over.
ROUNDS = {"float_kernels": 8, "runs_on_threads": 4, "functions": 99991}
FUZZ_SECONDS = int(os.environ.get("KERNEL_FUZZ_SECONDS", "10"))


def rounds(name: str) -> list[int]:
    return [ROUNDS[name]] if name in ROUNDS else []


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("fuzz")])
def test_a_program_finds_nothing_under_the_address_and_undefined_sanitizers(sanitized: Callable[[str, str], Path], name: str) -> None:
    run([sanitized(name, "address"), *rounds(name)], timeout_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "threads" in name or "team" in name])
def test_a_program_of_threads_finds_nothing_under_the_thread_sanitizer(sanitized: Callable[[str, str], Path], name: str) -> None:
    run([sanitized(name, "thread"), *rounds(name)], timeout_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("fuzz")])
def test_random_cases_are_the_same_on_every_path(sanitized: Callable[[str, str], Path], name: str) -> None:
    cases = FUZZ_CASES // OF_A_MODEL if name == "fuzz_models" else FUZZ_CASES
    said = run([sanitized(name, "address"), cases, FUZZ_SECONDS], timeout_s=FUZZ_SECONDS + 300)
    assert int(said.split()[0]) > 0
    print(said)
