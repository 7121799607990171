"""Makes what a release uploads, in dist/release, and tries it: run by `make release`, in an environment that has build and twine.

1. Checks that the changelog, both packages and the tag agree on the version.
2. Builds the sdist and the wheel of cls-export, and of cls-export-native the sdist and a wheel for each system.
3. Checks their metadata and README with `twine check --strict`.
4. Installs the wheels in a fresh environment and runs the README's lines there; installs the sdist in another one and starts every command.

Nothing is uploaded: .github/workflows/release.yml does that, when a tag is pushed.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from fresh_environment import fresh_environment

ROOT = Path(__file__).resolve().parent.parent
RELEASE = ROOT / "dist" / "release"
VERSIONS = ("runtime/cls_runtime/__init__.py", "native/python/cls_export_native/__init__.py")
COMMANDS = ("export", "embed", "verify", "bench", "doctor", "serve")


def version_of(root: Path = ROOT) -> str:
    """The version that everything agrees on.

    Raises:
        ValueError: something has another one, or the changelog has entries that belong to no release.
    """
    found = {}
    for name in VERSIONS:
        match = re.search(r'^__version__ = "(.*)"$', (root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = match[1] if match else "none"
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## \[(.*?)\]", changelog, re.MULTILINE)
    found["CHANGELOG.md"] = heading[1] if heading else "none"
    if len(set(found.values())) > 1:
        told = ", ".join(f"{name} says {version}" for name, version in found.items())
        raise ValueError(f"the versions differ: {told}; a release needs one, and its entries below it in the changelog")
    return found["CHANGELOG.md"]


def check_tag(version: str) -> None:
    """Checks that the version was not released from another commit.

    Raises:
        ValueError: its tag is somewhere else.
    """
    tagged = _output("git", "rev-parse", "--quiet", "--verify", f"v{version}^{{commit}}", check=False)
    if tagged and tagged != _output("git", "rev-parse", "HEAD"):
        raise ValueError(
            f"v{version} is tagged at {tagged[:12]} already; set a new version in {' and '.join(VERSIONS)} and in CHANGELOG.md"
        )


def build(folder: Path) -> list[Path]:
    """Builds all that is uploaded into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    _run(sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT))
    _run(sys.executable, "-m", "build", "--sdist", "--outdir", str(folder), str(ROOT / "native"))
    _run(str(ROOT / ".venv-compiler" / "bin" / "python"), str(ROOT / "scripts" / "native_wheels.py"))
    for wheel in (ROOT / "dist" / "native").glob("*.whl"):
        shutil.copy2(wheel, folder)
    return sorted(folder.iterdir())


def try_wheels(folder: Path, *, constraints: Path) -> None:
    """Runs the README's lines on the wheels alone, in a fresh environment."""
    with tempfile.TemporaryDirectory() as place:
        python = fresh_environment(sys.executable, Path(place) / "venv")
        (wheel,) = folder.glob("cls_export-*.whl")
        found = ["--find-links", str(folder), "--constraint", str(constraints)]
        asked = [f"{wheel}[export,cpu,serve,native]", "--group", f"{ROOT / 'pyproject.toml'}:test"]
        _run(python, "-m", "pip", "install", "--quiet", *found, *asked)
        _run(python, "-c", f"import cls_runtime; assert not cls_runtime.__file__.startswith({str(ROOT)!r}), cls_runtime.__file__")
        chosen = [
            "-k",
            "runs_as_written and README and not docs and not benchmarks and not native",
            "--basetemp",
            str(Path(place) / "pages"),
        ]
        _run(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_code_blocks.py", *chosen)


def try_sdist(folder: Path, *, constraints: Path) -> None:
    """Starts every command as it was built from the sdist; without their extras they say which one they need."""
    with tempfile.TemporaryDirectory() as place:
        python = fresh_environment(sys.executable, Path(place) / "venv")
        (sdist,) = folder.glob("cls_export-*.tar.gz")
        _run(python, "-m", "pip", "install", "--quiet", "--constraint", str(constraints), str(sdist))
        for command in COMMANDS:
            _run(str(Path(python).with_name(f"cls-{command}")), "--version")


def _run(*command: str) -> None:
    print("+", " ".join(command), flush=True)
    subprocess.run(command, cwd=ROOT, check=True)


def _output(*command: str, check: bool = True) -> str:
    return subprocess.run(command, cwd=ROOT, check=check, capture_output=True, text=True).stdout.strip()


def main(argv: Sequence[str] | None = None) -> int:
    """Makes and tries a release; gives the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    constraints = ROOT / "constraints.txt"
    parser.add_argument(
        "--constraints", type=Path, default=constraints, help="versions for the fresh environments (default: constraints.txt)"
    )
    options = parser.parse_args(argv)
    try:
        version = version_of()
        check_tag(version)
        files = build(RELEASE)
        _run(sys.executable, "-m", "twine", "check", "--strict", *map(str, files))
        try_sdist(RELEASE, constraints=options.constraints)
        try_wheels(RELEASE, constraints=options.constraints)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"\ncls-export {version} is ready in {RELEASE.relative_to(ROOT)}:")
    for file in files:
        print(f"  {file.stat().st_size:>10,} bytes  {hashlib.sha256(file.read_bytes()).hexdigest()[:16]}  {file.name}")
    print(f"To publish it: git tag v{version} && git push origin v{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
