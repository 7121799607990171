"""The steps of the GitHub action (action.yml): `python scripts/action.py key | install | export | verify`.

The action's inputs arrive as environment variables (`CLS_MODEL`, `CLS_REVISION`, `CLS_OUTPUT`, `CLS_OPTIONS`, `CLS_VERIFY_OPTIONS`,
`CLS_JUNIT`, and `CLS_CACHE_HIT` from the cache), never pasted into a command line. Nothing but this checkout and the standard library is
needed, since `key` runs before anything is installed.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "runtime"))

from cls_runtime.bundle.files import sha256  # noqa: E402


def main(step: str, environment: Mapping[str, str]) -> int:
    """Runs a step; the exit code is that of the command in it."""
    model, bundle = environment.get("CLS_MODEL", ""), environment.get("CLS_OUTPUT") or "models/bundle"
    if not model:
        print("error: the action's input `model` is empty, expected a hub id or a folder", file=sys.stderr)
        return 2
    revision = environment.get("CLS_REVISION", "")
    options, verify_options = (shlex.split(environment.get(name, "")) for name in ("CLS_OPTIONS", "CLS_VERIFY_OPTIONS"))
    if step == "key":
        return write_key(model, revision, options, bundle, environment["GITHUB_OUTPUT"])
    if step == "install":
        # A bundle from the cache is verified without PyTorch, unless it is to be compared with the live model.
        light = environment.get("CLS_CACHE_HIT") == "true" and "--against" not in verify_options
        return run(sys.executable, "-m", "pip", "install", f"{ROOT}[{'cpu' if light else 'export,cpu'}]")
    if step == "export":
        chosen = ["--revision", revision] if revision else []
        return run(*command("cls_exporter.command"), model, "-o", bundle, "--force", *chosen, *options)
    if step == "verify":
        report = environment.get("CLS_JUNIT", "")
        return run(*command("cls_runtime.commands.verify"), bundle, *(["--junit", report] if report else []), *verify_options)
    print(f"error: step {step!r}, expected key, install, export or verify", file=sys.stderr)
    return 2


def write_key(model: str, revision: str, options: list[str], bundle: str, output_file: str) -> int:
    """Writes `key` and `path` where GitHub reads a step's outputs, and warns of a key that cannot know whether the model has changed."""
    if not Path(model).is_dir() and not revision:
        print(
            f"::warning::{model} has no revision: a cached bundle stays although the model changes on the hub; give a commit as `revision`"
        )
    with open(output_file, "a", encoding="utf-8") as outputs:
        outputs.write(f"key={cache_key(model, revision, options)}\npath={bundle}\n")
    return 0


def cache_key(model: str, revision: str, options: list[str]) -> str:
    """Names what decides the bundle's content: model (a folder by its files), revision, options, and this tool's own source."""
    digest = hashlib.sha256()
    for part in (model, revision, *options):
        digest.update(f"{len(part)}:{part}".encode())
    sources = [path for package in ("exporter", "runtime") for path in (ROOT / package).rglob("*") if path.suffix in {".py", ".txt"}]
    checkpoint = [path for path in Path(model).rglob("*") if path.is_file()] if Path(model).is_dir() else []
    for path in [ROOT / "pyproject.toml", *sorted(sources), *sorted(checkpoint)]:
        digest.update(path.as_posix().removeprefix(ROOT.as_posix()).encode() + bytes.fromhex(sha256(path)))
    return f"cls-export-{sys.platform}-{digest.hexdigest()}"


def command(module: str) -> tuple[str, ...]:
    """A command as a module of this Python, whatever PATH says."""
    return sys.executable, "-m", module


def run(*arguments: str) -> int:
    """Prints a command line and runs it."""
    print(shlex.join(arguments), flush=True)
    return subprocess.run(arguments, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "", os.environ))
