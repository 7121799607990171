"""The distribution of the kernels: its version, what is in its wheel, what the library links, and for which systems it is made."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import build_library
from build_library import TARGETS, Compiler, compiler_for, this_machine, zig_command
from cls_runtime import __version__

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
NATIVE = ROOT / "native"


def test_both_distributions_have_one_version_and_one_license() -> None:
    package = (NATIVE / "python" / "cls_export_native" / "__init__.py").read_text()
    assert re.findall(r'^__version__ = "(.+)"$', package, flags=re.MULTILINE) == [__version__]
    assert (NATIVE / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    with open(NATIVE / "pyproject.toml", "rb") as file:
        assert tomllib.load(file)["project"]["dependencies"] == []


def test_a_package_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(NATIVE / "python")
    monkeypatch.delitem(sys.modules, "cls_export_native", raising=False)
    import cls_export_native

    monkeypatch.delitem(sys.modules, "cls_export_native")
    with pytest.raises(FileNotFoundError, match="pip install cls-export-native"):
        cls_export_native.library()


def test_a_target_without_a_wheel_and_a_target_for_a_compiler_of_this_machine_are_refused() -> None:
    with pytest.raises(RuntimeError, match=r"CLS_NATIVE_TARGET=sparc-linux.*x86_64-windows-gnu"):
        compiler_for(target="sparc-linux") if zig_command() else pytest.skip("no ziglang here")
    with pytest.raises(RuntimeError, match="set one of them"):
        compiler_for(target="aarch64-macos.11.0", cxx="g++")


def test_without_ziglang_the_message_names_the_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build_library, "zig_command", lambda: None)
    with pytest.raises(RuntimeError, match="CLS_NATIVE_CXX"):
        compiler_for()


@pytest.fixture
def compilers() -> list[Compiler]:
    """Those of this machine: ziglang's and g++."""
    found = [compiler_for()] if zig_command() else []
    found += [compiler_for(cxx="g++")] if shutil.which("g++") else []
    return found or pytest.skip("neither ziglang nor g++ is here")


@pytest.mark.slow
def test_the_library_links_c_and_threads_alone_and_exports_its_interface_alone(compilers: list[Compiler], tmp_path: Path) -> None:
    """By each compiler, without a warning."""
    interface = set(re.findall(r"CLS_API [^;(]*?\b(cls_\w+)\(", (NATIVE / "src" / "cls_native.h").read_text()))
    assert "cls_run" in interface
    for number, compiler in enumerate(compilers):
        (tmp_path / str(number)).mkdir()
        library = build_library.build_library(compiler, tmp_path / str(number))
        assert library.stat().st_size < 3_000_000
        if shutil.which("readelf"):
            needed = subprocess.run(["readelf", "-Wd", library], capture_output=True, text=True, check=True).stdout
            linked = set(re.findall(r"\(NEEDED\).*\[(.+)\]", needed))
            assert {re.sub(r"\.so.*", "", name) for name in linked} <= {"libc", "libm", "libpthread", "ld-linux-x86-64", "ld-linux-aarch64"}
            symbols = subprocess.run(["readelf", "-W", "--dyn-syms", library], capture_output=True, text=True, check=True).stdout
            exported = {line.split()[-1] for line in symbols.splitlines() if re.search(r" (FUNC|OBJECT) +GLOBAL +DEFAULT +\d+ ", line)}
            assert exported == interface


@pytest.mark.slow
def test_the_wheel_of_this_machine_is_small_and_has_the_library(tmp_path: Path) -> None:
    if zig_command() is None:
        pytest.skip("ziglang is not here; `make setup` makes .venv-compiler")
    python = zig_command()[0]
    command = [python, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(NATIVE)]
    subprocess.run(command, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"cls_export_native-{__version__}-{this_machine().tag}.whl"
    assert wheel.stat().st_size < 5_000_000
    with zipfile.ZipFile(wheel) as archive:
        inside = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert inside == {f"cls_export_native/{name}" for name in ("__init__.py", "py.typed", this_machine().library_name)}


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, target in TARGETS.items() if target.system != "linux"])
def test_systems_that_nothing_runs_here_have_a_library(name: str, tmp_path: Path) -> None:
    """Not optimized, which takes a fraction of the time."""
    if zig_command() is None:
        pytest.skip("ziglang is not here; `make setup` makes .venv-compiler")
    library = build_library.build_library(compiler_for(target=name), tmp_path, ["-O0", "-fno-sanitize=undefined"])
    starts = {"macos": b"\xcf\xfa\xed\xfe", "windows": b"MZ"}
    assert library.read_bytes().startswith(starts[TARGETS[name].system])
