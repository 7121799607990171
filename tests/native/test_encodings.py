"""Dot products of a CPU that is not here, by the same instruction in another encoding."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from build_library import OPTIMIZED, PATHS, build_program, compile_objects, compiler_for
from native_programs import PROGRAMS

NOT_HERE = 77


@pytest.mark.slow
def test_the_dot_products_of_avx_vnni_give_the_portable_bits(tmp_path: Path) -> None:
    try:
        compiler = compiler_for()
    except RuntimeError as error:
        pytest.skip(str(error))
    if compiler.target.architecture != "x86_64":
        pytest.skip(f"AVX-VNNI is x86's, this machine is {compiler.target.name}")
    objects = compile_objects(compiler, tmp_path)
    source = PROGRAMS / "encodings" / "avx_vnni.cpp"
    flags = [*OPTIMIZED, *PATHS["x86_64"]["avx512_vnni"], f"-I{PROGRAMS}"]
    done = subprocess.run(
        [build_program(compiler, [source], tmp_path / "avx_vnni", objects=objects, flags=flags)], capture_output=True, text=True
    )
    if done.returncode == NOT_HERE:
        pytest.skip(done.stdout.strip())
    assert done.returncode == 0, done.stdout + done.stderr
