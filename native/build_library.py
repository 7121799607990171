"""Compiles the kernels: the sources with the flags of each, the compilers, and the systems that a library can be made for.

The wheel's build hook, the tests and the benchmarks all compile through here. `python build_library.py DIR` makes a library for this
machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
SOURCES = HERE / "src"

# What every file is compiled with. Nothing may change the order or the rounding of an operation.
FLAGS = (
    "-std=c++17 -ffp-contract=off -fno-math-errno -fno-exceptions -fno-rtti -fno-threadsafe-statics -fvisibility=hidden "
    "-Wall -Wextra -Werror -Wno-unused-function"
).split()
OPTIMIZED = ["-O3", "-fno-sanitize=undefined"]  # without the second, zig may trap where it sees fit

# src/paths/NAME.cpp, by architecture: the instructions that this file alone may use. `portable` may use none.
_AVX2 = "-mavx2 -mfma -mf16c".split()
PATHS: dict[str, dict[str, list[str]]] = {
    "x86_64": {
        "avx2": _AVX2,
        "avx_vnni": [*_AVX2, "-mavxvnni"],
        "avx512_vnni": [*_AVX2, *"-mavx512f -mavx512bw -mavx512dq -mavx512vl -mavx512vnni".split()],
    },
    "aarch64": {
        "neon_dotprod": ["-march=armv8.2-a+dotprod"],
        "neon_i8mm": ["-march=armv8.2-a+dotprod+i8mm"],
    },
}


@dataclass(frozen=True, kw_only=True)
class Target:
    """A system that a library is made for.

    Attributes:
        name: as zig has it.
        tag: of a wheel.
    """

    name: str
    tag: str

    @property
    def architecture(self) -> str:
        """As in `PATHS`."""
        return self.name.split("-")[0]

    @property
    def system(self) -> str:
        """linux, macos or windows."""
        return self.name.split("-")[1].split(".")[0]

    @property
    def library_name(self) -> str:
        """As cls_export_native looks for it."""
        return {"windows": "cls_native.dll", "macos": "libcls_native.dylib"}.get(self.system, "libcls_native.so")


# Those that ship as wheels.
TARGETS = {
    target.name: target
    for target in (
        Target(name="x86_64-linux-gnu.2.17", tag="py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64"),
        Target(name="aarch64-linux-gnu.2.17", tag="py3-none-manylinux_2_17_aarch64.manylinux2014_aarch64"),
        Target(name="aarch64-macos.11.0", tag="py3-none-macosx_11_0_arm64"),
        Target(name="x86_64-windows-gnu", tag="py3-none-win_amd64"),
    )
}


@dataclass(frozen=True, kw_only=True)
class Compiler:
    """What compiles and links.

    Attributes:
        command: a C++ compiler, with what says its target.
        target: what it makes programs for.
        zig: whether it is zig's clang, which has names of its own for the instructions of ARM and brings the C library.
    """

    command: tuple[str, ...]
    target: Target
    zig: bool

    def run(self, arguments: Sequence[str | Path]) -> None:
        """Raises RuntimeError with the first lines of what the compiler says."""
        command = [*self.command, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{shlex.join(command)} failed with status {done.returncode}:\n{done.stdout}{done.stderr}"[:20_000])

    def path_flags(self, path: str) -> list[str]:
        """For src/paths/`path`.cpp."""
        flags = PATHS.get(self.target.architecture, {}).get(path, [])
        if self.zig:
            return [flag.replace("-march=armv8.2-a", "-mcpu=generic+v8_2a") for flag in flags]
        return flags

    @property
    def link_flags(self) -> list[str]:
        """So that nothing but C and threads is linked."""
        if self.target.system == "windows":
            return ["-nostdlib++"]
        if self.zig:
            return ["-nostdlib++", "-pthread", "-lm"]
        return ["-Wl,-dead_strip_dylibs"] if self.target.system == "macos" else ["-Wl,--as-needed", "-pthread", "-lm"]


def this_machine() -> Target:
    """The target of this Python: one of `TARGETS` where there is one, else with the tag that this system gives itself."""
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    machine = {"AMD64": "x86_64", "arm64": "aarch64"}.get(platform.machine(), platform.machine())
    glibc = system != "linux" or platform.libc_ver()[0] == "glibc"
    for target in TARGETS.values():
        if (target.architecture, target.system) == (machine, system) and glibc:
            return target
    import sysconfig

    tag = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    return Target(name=f"{machine}-{system}", tag=f"py3-none-{tag}")


def zig_command() -> tuple[str, ...] | None:
    """The command of `ziglang` in this Python, or in the environment that `make setup` makes for it."""
    if importlib.util.find_spec("ziglang"):
        return (sys.executable, "-m", "ziglang")
    made_by_setup = HERE.parent / ".venv-compiler"
    if any(made_by_setup.glob("lib/python*/site-packages/ziglang/__main__.py")):
        return (str(made_by_setup / "bin" / "python"), "-m", "ziglang")
    return None


def compiler_for(*, target: str | None = None, cxx: str | None = None) -> Compiler:
    """The compiler of `ziglang`, or the one of this machine that `cxx` names, for `target` or this machine.

    Raises:
        RuntimeError: there is none that can.
    """
    if cxx:
        if target:
            raise RuntimeError(f"CLS_NATIVE_CXX={cxx} compiles for this machine, CLS_NATIVE_TARGET={target} needs ziglang: set one of them")
        here = this_machine()
        tag = here.tag if here.system != "linux" else f"py3-none-linux_{here.architecture}"  # linked with this machine's C library
        return Compiler(command=tuple(shlex.split(cxx)), target=Target(name=here.name, tag=tag), zig=False)
    zig = zig_command()
    if zig is None:
        raise RuntimeError("there is no ziglang in this Python: pip install ziglang, or name a C++ compiler with CLS_NATIVE_CXX")
    if target and target not in TARGETS and not target.endswith("-linux-musl"):
        raise RuntimeError(f"CLS_NATIVE_TARGET={target} is not a system that has a wheel; those are {', '.join(TARGETS)}")
    made_for = TARGETS.get(target) or Target(name=target, tag="") if target else this_machine()
    return Compiler(command=(*zig, "c++", "-target", made_for.name), target=made_for, zig=True)


def source_flags(compiler: Compiler) -> dict[Path, list[str]]:
    """The sources of the library for a compiler's target, each with its own flags: all of src/, and of src/paths/ what the target runs."""
    paths = ["portable", *PATHS.get(compiler.target.architecture, {})]
    found: dict[Path, list[str]] = {path: [] for path in sorted(SOURCES.rglob("*.cpp")) if path.parent.name != "paths"}
    return found | {SOURCES / "paths" / f"{name}.cpp": compiler.path_flags(name) for name in paths}


def compile_objects(compiler: Compiler, folder: Path, flags: Sequence[str] = OPTIMIZED) -> list[Path]:
    """Compiles every source of the library into `folder`, as many at once as there are CPUs."""
    position = [] if compiler.target.system == "windows" else ["-fPIC"]

    def compiled(source: Path, own: list[str]) -> Path:
        result = folder / f"{source.stem}.o"
        compiler.run([*FLAGS, *flags, *own, *position, "-I", SOURCES, "-c", source, "-o", result])
        return result

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return [work.result() for work in [pool.submit(compiled, *item) for item in source_flags(compiler).items()]]


def build_library(compiler: Compiler, folder: Path, flags: Sequence[str] = OPTIMIZED) -> Path:
    """Compiles and links the library into `folder`, without symbols, and returns its path."""
    with tempfile.TemporaryDirectory() as objects:
        linked = Path(objects, compiler.target.library_name)
        compiler.run(["-shared", "-s", *compile_objects(compiler, Path(objects), flags), "-o", linked, *compiler.link_flags])
        return Path(shutil.move(linked, folder / linked.name))  # without what linkers of Windows put beside it


def build_program(
    compiler: Compiler, sources: Sequence[Path], result: Path, *, objects: Sequence[Path], flags: Sequence[str] = OPTIMIZED
) -> Path:
    """Compiles `sources` and links them with objects of the library, whose inner functions they can call, into a program."""
    compiler.run([*FLAGS, *flags, "-I", SOURCES, *sources, *objects, "-o", result, *compiler.link_flags])
    return result


def main() -> None:
    """Makes a library of the environment's target in the folder that is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR")
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        print(build_library(compiler_for(target=os.environ.get("CLS_NATIVE_TARGET"), cxx=os.environ.get("CLS_NATIVE_CXX")), folder))
    except RuntimeError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
