"""A peer's own environment, and its own files made from the checkpoint; both are made once and kept.

The programs of the peers (`requirements.txt`, `run.py`, and `convert.py` where a peer has files of its own) are no part of this package's
code: each runs in its own environment only. A checkout has them in benchmarks/peers/, the wheel carries them along.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cls_runtime.bundle.files import named_when_full
from cls_runtime.bundle.manifest import Pooling
from cls_runtime.engines.choice import ENGINES
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.installed import is_importable

OURS = "cls-export"
# What this project's own environment has; a GPU's engine is compared only where it is installed.
OWN_EXTRAS = ("cpu", "openvino")


class PeerError(Exception):
    """A peer cannot be installed, converted or run; why, on one line. It ends up in the comparison, not with the user."""


def programs() -> Path:
    """The folder with a folder for each peer."""
    here = Path(__file__).resolve().parent
    shipped = here / "peer_programs"
    return shipped if shipped.is_dir() else here.parents[2] / "benchmarks" / "peers"


def default_environments() -> Path:
    """The folder for the peers' environments where none is named: `cls-export/peers` in the user's cache folder."""
    if os.name == "nt":
        cache = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "cls-export" / "peers"


def interpreter(peer: str, settings: str, folder: Path, *, limit_s: float) -> Path:
    """The interpreter that runs a side: a peer's own; for this project the one that runs now, where it has the engine.

    Raises:
        PeerError: the environment cannot be made.
    """
    engine = ENGINES.get(settings.split(":", maxsplit=1)[0])
    if peer == OURS and (engine is None or engine.extra not in OWN_EXTRAS or is_importable(engine.package)):
        return Path(sys.executable)
    return environment(peer, folder, limit_s=limit_s)


def environment(peer: str, folder: Path, *, limit_s: float) -> Path:
    """The interpreter of a peer's own environment, made where it is not there or has other versions.

    Raises:
        PeerError: pip cannot install the peer.
    """
    home = folder / peer / "environment"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = programs() / peer / "requirements.txt"
    installed = home / "requirements.txt"
    if not python.exists() or not installed.exists() or installed.read_text() != requirements.read_text():
        run_once([sys.executable, "-m", "venv", "--clear", str(home)], "no environment can be made", limit_s=limit_s)
        command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(requirements)]
        run_once(command, "cannot be installed", limit_s=limit_s)
        shutil.copyfile(requirements, installed)
    return python


def own_source(python: Path, folder: Path) -> Path:
    """A folder from which `python` imports this very `cls_runtime`; another environment gets a copy, without what lies beside it."""
    package = Path(__file__).resolve().parents[1]
    if python == Path(sys.executable):
        return package.parent
    source = folder / OURS / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(package, source / package.name, ignore=shutil.ignore_patterns("__pycache__"))
    return source


def converted(
    peer: str,
    python: Path,
    folder: Path,
    *,
    checkpoint: str | Path,
    max_length: int,
    pooling: Pooling,
    calibration: Sequence[str],
    limit_s: float,
) -> Path:
    """The folder with what the peer's convert.py made from the checkpoint; empty where it has none.

    Raises:
        PeerError: convert.py failed or took too long.
    """
    program = programs() / peer / "convert.py"
    if not program.exists():
        work = folder / peer / "no-files"
        work.mkdir(parents=True, exist_ok=True)
        return work
    texts = json.dumps(list(calibration))
    made_of = [_identity(checkpoint), max_length, pooling, texts, program.read_text(encoding="utf-8")]
    key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()
    work = folder / peer / f"{Path(checkpoint).name}-{key[:12]}"
    if not work.exists():
        unfinished = work.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        with named_when_full(unfinished / "calibration.json"):
            (unfinished / "calibration.json").write_text(texts, encoding="utf-8")
        threads = available_cpus()
        command = program_command(
            python, program, checkpoint=checkpoint, work=unfinished, threads=threads, max_length=max_length, pooling=pooling
        )
        run_once(
            [*command, "--calibration", str(unfinished / "calibration.json")],
            "cannot be converted",
            limit_s=limit_s,
            environment=program_environment(threads=threads, offline=Path(checkpoint).is_dir()),
        )
        unfinished.rename(work)
    return work


def program_command(
    python: Path,
    program: Path,
    *,
    checkpoint: str | Path,
    work: Path,
    threads: int,
    max_length: int,
    pooling: Pooling,
    settings: str = "",
) -> list[str]:
    """How a peer's program is started; benchmarks/peers/common/peer_protocol.py reads it."""
    options = {
        "--checkpoint": checkpoint,
        "--work": work,
        "--threads": threads,
        "--max-length": max_length,
        "--pooling": pooling,
        "--settings": settings,
    }
    return [str(python), str(program), *(str(part) for option in options.items() for part in option)]


def program_environment(*, threads: int, offline: bool, source: Path | None = None) -> dict[str, str]:
    """The environment variables of a peer's program: the same budget of threads for every library that reads one there."""
    paths = [str(programs() / "common"), *([str(source)] if source else [])]
    budget = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    quiet = {"HF_HUB_OFFLINE": "1"} if offline else {}
    return {**os.environ, **budget, **quiet, "PYTHONPATH": os.pathsep.join(paths), "TOKENIZERS_PARALLELISM": "true"}


def run_once(command: Sequence[str], failure: str, *, limit_s: float, environment: dict[str, str] | None = None) -> None:
    """Runs a program to its end.

    Raises:
        PeerError: `failure` and the program's last line, or that it took longer than `limit_s`.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, timeout=limit_s, env=environment)
    except subprocess.TimeoutExpired:
        raise PeerError(f"{failure}: not done after {limit_s:.0f} s") from None
    except OSError as error:
        raise PeerError(f"{failure}: {error}") from None
    if done.returncode:
        raise PeerError(f"{failure}: {last_line(done.stderr)}")


def last_line(text: str) -> str:
    """The last line of a program's output that says something: where it says what went wrong."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not line.startswith(("[notice]", "WARNING:", "[end of output]"))]
    return (telling or lines or ["no output"])[-1][:300]


def _identity(checkpoint: str | Path) -> list[object]:
    """What tells one checkpoint from another of the same name: its files' names, sizes and times; a hub id is its own."""
    folder = Path(checkpoint)
    if not folder.is_dir():
        return [str(checkpoint)]
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [str(folder.resolve()), *((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files)]
