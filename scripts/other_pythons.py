"""Tries the runtime's wheel on the oldest and the newest other Python of this machine: `python scripts/other_pythons.py BUNDLE`.

They are looked for on the PATH and among those of pyenv. Each gets a fresh environment with `cls-export[cpu]`, in which the tests of
tests/environments/runtime_only.py run. A machine with one Python says so and passes: the workflow of .github/ has them all.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fresh_environment import fresh_environment

ROOT = Path(__file__).resolve().parent.parent
OLDEST, NEWEST = (3, 10), (3, 14)
Version = tuple[int, int]


def version_of(python: str) -> Version | None:
    """The version of an interpreter; None where it does not run, as a shim of pyenv may not."""
    program = "import sys, venv, ensurepip; print(*sys.version_info[:2])"
    try:
        done = subprocess.run([python, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    except OSError:
        return None
    major, _, minor = done.stdout.strip().partition(" ")
    return (int(major), int(minor)) if done.returncode == 0 else None


def others() -> dict[Version, str]:
    """The oldest and the newest interpreter of a supported version that is not this one's, by version."""
    names = [shutil.which(f"python3.{minor}") for minor in range(OLDEST[1], NEWEST[1] + 1)]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    found = {version_of(name): name for name in (*map(str, pyenv.glob("versions/3.*/bin/python")), *filter(None, names))}
    usable = {version: name for version, name in found.items() if version is not None and OLDEST <= version <= NEWEST}
    usable.pop(sys.version_info[:2], None)
    ends = sorted(usable)[:1] + sorted(usable)[-1:]
    return {version: usable[version] for version in dict.fromkeys(ends)}


def try_on(python: str, bundle: Path) -> None:
    """Installs the wheel in a fresh environment of this interpreter, and runs the tests of the runtime there."""
    (wheel,) = (ROOT / "dist").glob("*.whl")
    with tempfile.TemporaryDirectory() as place:
        own = fresh_environment(python, Path(place))
        constraints = ["--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([own, "-m", "pip", "install", "--quiet", "--no-compile", *constraints, f"{wheel}[cpu]"], check=True)
        subprocess.run([own, "-I", str(ROOT / "tests" / "environments" / "runtime_only.py"), str(bundle)], check=True)


def main(argv: Sequence[str]) -> int:
    """Tries them; gives the exit code."""
    bundle, found = Path(argv[0]), others()
    for version, python in found.items():
        print(f"Python {'.'.join(map(str, version))}:", flush=True)
        try:
            try_on(python, bundle)
        except subprocess.CalledProcessError as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    if not found:
        print("notice: there is no other Python here; the workflow in .github/ runs the tests on all of them", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
