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
FUZZ_SECONDS = int(os.environ.get("KERNEL_FUZZ_SECONDS", "10"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith("fuzz")])
def test_a_program_finds_nothing_under_the_address_and_undefined_sanitizers(sanitized: Callable[[str, str], Path], name: str) -> None:
    run([sanitized(name, "address")], timeout_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if "threads" in name or "team" in name])
def test_a_program_of_threads_finds_nothing_under_the_thread_sanitizer(sanitized: Callable[[str, str], Path], name: str) -> None:
    run([sanitized(name, "thread")], timeout_s=600)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("fuzz")])
def test_random_cases_are_the_same_on_every_path(sanitized: Callable[[str, str], Path], name: str) -> None:
    cases = FUZZ_CASES // OF_A_MODEL if name == "fuzz_models" else FUZZ_CASES
    said = run([sanitized(name, "address"), cases, FUZZ_SECONDS], timeout_s=FUZZ_SECONDS + 300)
    assert int(said.split()[0]) > 0
    print(said)
