"""Wheels of our kernels, in dist/native: `native_wheels.py` makes one for each system, `native_wheels.py --here` this machine's alone.

Runs in `.venv-compiler`, which has ziglang wherever there is a package of it. Without ziglang `--here` takes a compiler of this machine; where
there is none it says so in a line, makes nothing and does not fail.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "native"))
from build_library import TARGETS, Target, this_machine

WHEELS = ROOT / "dist" / "native"
HERE = WHEELS / "here"
LARGEST_BYTES = 5_000_000


def wheel(folder: Path, **variables: str) -> Path:
    """Builds one into an empty `folder`, with variables of the environment, and returns its path."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(ROOT / "native")], env={**os.environ, **variables}, check=True)
    (made,) = folder.glob("*.whl")
    size = made.stat().st_size
    if size > LARGEST_BYTES:
        sys.exit(
            f"{made.name} has {size:,} bytes, expected at most {LARGEST_BYTES:,}: look for symbols or copies that the library does not need"
        )
    return made


def this_machines_variables() -> dict[str, str] | None:
    """What compiles here: nothing to say where it is ziglang, else a compiler's name; None where there is none."""
    if "CLS_NATIVE_CXX" in os.environ or importlib.util.find_spec("ziglang"):
        return {}
    found = next((name for name in ("clang++", "g++", "c++") if shutil.which(name)), None)
    return {"CLS_NATIVE_CXX": found} if found else None


def runs_here(target: Target) -> str:
    """Whether a library for a target can be run on this machine, in words."""
    here = this_machine()
    if target.name == here.name:
        return "runs here"
    if target.system == here.system == "linux" and shutil.which(f"qemu-{target.architecture}"):
        return f"its code runs here under qemu-{target.architecture}"
    return f"cannot be run here, on {here.name}: built and not tried"


def make_this_machines() -> None:
    """The wheel that `make setup` installs."""
    variables = this_machines_variables()
    if variables is None:
        shutil.rmtree(HERE, ignore_errors=True)
        HERE.mkdir(parents=True)
        print(
            "notice: our kernels are not built: no ziglang for this system and no C++ compiler; bundles run on ONNX Runtime",
            file=sys.stderr,
        )
        return
    start = time.monotonic()
    made = wheel(HERE, **variables)
    print(f"{made.name}: {made.stat().st_size:,} bytes, built in {time.monotonic() - start:.0f} s")


def make_all() -> None:
    """One wheel for each system."""
    WHEELS.mkdir(parents=True, exist_ok=True)
    for old in WHEELS.glob("*.whl"):
        old.unlink()
    for target in TARGETS.values():
        with tempfile.TemporaryDirectory() as folder:
            made = wheel(Path(folder, "wheel"), CLS_NATIVE_TARGET=target.name)
            print(f"{made.name}: {made.stat().st_size:,} bytes; {runs_here(target)}")
            shutil.move(made, WHEELS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--here", action="store_true", help="this machine's alone, into dist/native/here")
    make_this_machines() if parser.parse_args().here else make_all()
