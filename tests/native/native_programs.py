"""The test programs of native/tests, compiled: with sanitizers by a compiler of this machine, and for other CPUs by ziglang."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from build_library import OPTIMIZED, Compiler, build_program, compile_objects, compiler_for

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ROOT / "native" / "tests"
# A finding ends the program. gcc sees uninitialized values where sanitizers add code.
SANITIZED = {
    "address": "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=all -Wno-error".split(),
    "thread": "-O1 -g1 -fsanitize=thread -Wno-error".split(),
}


class SanitizingCompiler(Compiler):
    """Looks in portable.cpp for addresses alone: with undefined behaviour it compiles for longer than all the rest.

    The other paths are made of the same templates. `make fuzz` looks for both everywhere.
    """

    def path_flags(self, path: str) -> list[str]:
        """For src/paths/`path`.cpp."""
        leaves_out = path == "portable" and "KERNEL_FUZZ_CASES" not in os.environ
        return [*super().path_flags(path), *(["-fno-sanitize=undefined"] if leaves_out else [])]


def compiler_with_sanitizer(sanitizer: str, folder: Path) -> Compiler | None:
    """The first compiler of this machine whose programs run with `sanitizer`; tried in `folder`."""
    trial = folder / "trial.cpp"
    trial.write_text("int main() { return 0; }\n")
    for name in ("clang++", "g++"):
        if shutil.which(name):
            found = compiler_for(cxx=name)
            compiler = SanitizingCompiler(command=found.command, target=found.target, zig=found.zig)
            try:
                compiler.run([*SANITIZED[sanitizer], trial, "-o", folder / "trial"])
                subprocess.run([folder / "trial"], check=True, capture_output=True)
            except (RuntimeError, subprocess.CalledProcessError):
                continue
            return compiler
    return None


def compile_library(compiler: Compiler, folder: Path, flags: list[str] = OPTIMIZED) -> None:
    """The objects of the library, which `program` links."""
    compile_objects(compiler, folder, flags)


def program(compiler: Compiler, name: str, folder: Path, *, library: Path, flags: list[str] = OPTIMIZED) -> Path:
    """native/tests/`name`.cpp linked with the objects in `library`, statically for another architecture."""
    elsewhere = ["-static"] if compiler.target.name.endswith("-musl") else []
    objects = sorted(library.glob("*.o"))
    return build_program(compiler, [PROGRAMS / f"{name}.cpp"], folder / name, objects=objects, flags=[*flags, *elsewhere])


def run(command: list[str | int | Path], *, timeout_s: float) -> str:
    """What it printed; an AssertionError with that and the finding where it fails."""
    environment = {**os.environ, "UBSAN_OPTIONS": "print_stacktrace=1", "TSAN_OPTIONS": "halt_on_error=1"}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=timeout_s, env=environment)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: status {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}"
    return done.stdout
