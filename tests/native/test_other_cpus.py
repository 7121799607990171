"""The kernels on other CPUs, under qemu-user: every path bit for bit the portable one, and digests that are those of this machine."""

from __future__ import annotations

import platform
import re
import shutil
from pathlib import Path

import pytest
from native_programs import compile_library, program, run

from build_library import Compiler, compiler_for, zig_command

CASES = {"fuzz": 2000, "fuzz_models": 12}
# Of qemu's CPUs: with all that it emulates, and with less. `max` of x86-64 has AVX2 and neither AVX512 nor VNNI.
CPUS = [
    ("aarch64", "max", {"portable", "neon_dotprod", "neon_i8mm"}),
    ("aarch64", "neoverse-n1", {"portable", "neon_dotprod"}),
    ("aarch64", "cortex-a57", {"portable"}),
    ("x86_64", "max", {"portable", "avx2"}),
    ("x86_64", "Nehalem", {"portable"}),
]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Both programs for each architecture, linked statically, so that qemu needs nothing of theirs."""
    if zig_command() is None:
        pytest.skip("ziglang is not here; `make setup` makes .venv-compiler")
    made: dict[str, dict[str, Path]] = {}
    for architecture in ("x86_64", "aarch64"):
        folder = tmp_path_factory.mktemp(architecture)
        compiler: Compiler = compiler_for(target=f"{architecture}-linux-musl")
        compile_library(compiler, folder)
        made[architecture] = {name: program(compiler, name, folder, library=folder) for name in CASES}
    return made


@pytest.fixture(scope="module")
def digests(programs: dict[str, dict[str, Path]]) -> dict[str, str]:
    """What this machine's CPU gives."""
    if platform.machine() not in programs:
        pytest.skip(f"no program for {platform.machine()}")
    return {name: digest_of(run([programs[platform.machine()][name], cases], timeout_s=300), cases) for name, cases in CASES.items()}


def digest_of(said: str, cases: int) -> str:
    found = re.match(rf"{cases} cases .* digest ([0-9a-f]{{16}})", said)
    assert found, said
    return found[1]


@pytest.mark.parametrize(("architecture", "cpu", "paths"), CPUS, ids=[f"{architecture}-{cpu}" for architecture, cpu, _ in CPUS])
@pytest.mark.parametrize("name", CASES)
def test_every_path_is_the_portable_one_and_this_machines(
    programs: dict[str, dict[str, Path]], digests: dict[str, str], architecture: str, cpu: str, paths: set[str], name: str
) -> None:
    qemu = shutil.which(f"qemu-{architecture}")
    if qemu is None:
        pytest.skip(f"no qemu-{architecture}; scripts/ci_system_packages.sh installs it")
    said = run([qemu, "-cpu", cpu, programs[architecture][name], CASES[name]], timeout_s=600)
    assert digest_of(said, CASES[name]) == digests[name]
    assert set(re.split(r"[ ,]+", said.split("all the same on:")[1].strip())) == paths
