"""Everything that a machine with a GPU and no network is to run, in a few minutes, with what was carried there.

    python benchmarks/on_gpu/session.py --carried DIR --out DIR
    python benchmarks/on_gpu/session.py --carried DIR --out DIR --minutes 5 --only tests budgets

Python's standard library is all that it needs to begin with. The machine has PyTorch with CUDA, transformers and pytest; DIR has

    *.whl, *.tar.*     packages that it lacks, such as onnxruntime-gpu; of a package that is there too, the carried one is taken
    checkpoint/        all-MiniLM-L6-v2; without its weights random ones are made, on which speed does not depend and parity does

An environment is made of both, in which no other onnxruntime is, and which has CUDA's libraries beside it, as pip would have put them. The
steps follow one after another, the most important first, each with a limit: none stops another, and what is left when the minutes are over
is named. --out gets session.log with all that was printed, gpu.json, and an XML file of each run of pytest.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parents[2]
# Two wheels with the same files: only the carried one may be seen.
ONNXRUNTIME = re.compile(r"onnxruntime$|onnxruntime(_gpu)?-")
MARKED = re.compile(r"^(@|pytestmark = .*)pytest\.mark\.gpu\b", re.MULTILINE)
LEAST_S = 20.0
_RANDOM_WEIGHTS = """
import sys, torch
from transformers import BertConfig, BertModel
torch.manual_seed(0)
BertModel(BertConfig.from_pretrained(sys.argv[1])).save_pretrained(sys.argv[1])
"""
_FACTS = """
import importlib.metadata as m, os, platform, sys
print(sys.version, platform.platform(), os.cpu_count(), "CPUs")
for name in ("onnxruntime", "onnxruntime-gpu", "torch", "transformers", "sentence-transformers", "tokenizers", "onnx", "onnx-ir", "numpy"):
    try:
        print(name, m.version(name))
    except m.PackageNotFoundError:
        print(name, "is not there")
"""


@dataclass(frozen=True)
class Step:
    """A command, and the seconds that it may take at most."""

    name: str
    command: Sequence[str]
    limit_s: float


def make_environment(folder: Path, carried: Sequence[Path], *, packages: Sequence[Path]) -> Path:
    """Makes an environment of the carried packages and of links to those in `packages`, and gives its Python."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", "--symlinks", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    for archive in _archives(carried):
        if archive.suffix == ".whl":
            with zipfile.ZipFile(archive) as wheel:
                wheel.extractall(site)
        else:
            with tarfile.open(archive) as packed:
                packed.extractall(site, filter="data")
    ours = {_distribution(path) for path in site.glob("*.dist-info")}
    for package in (entry for place in packages for entry in sorted(place.iterdir())):
        here = site / package.name
        another_version = package.suffix == ".dist-info" and _distribution(package) in ours
        if not (ONNXRUNTIME.match(package.name) or another_version or here.exists()):
            here.symlink_to(package)
    return folder / "bin" / "python"


def _archives(carried: Sequence[Path]) -> Iterator[Path]:
    for folder in carried:
        yield from sorted(path for path in folder.iterdir() if path.suffix == ".whl" or ".tar" in path.suffixes)


def _distribution(package: Path) -> str:
    return package.name.partition("-")[0].lower()


def installed_packages() -> list[Path]:
    """Where this Python has its packages, and the environment's base has, first ones first."""
    found = dict.fromkeys(Path(place) for place in (*sys.path, sysconfig.get_path("purelib")) if place.endswith("-packages"))
    return [place for place in found if place.is_dir()]


def steps(python: Path, *, out: Path, work: Path, checkpoint: Path | None) -> list[Step]:
    """What is run, the most important first."""

    def bench(name: str, limit_s: float, *parts: str) -> Step:
        given = [] if checkpoint is None else ["--checkpoint", str(checkpoint)]
        script = [str(ROOT / "benchmarks" / "gpu.py"), "--models", str(work / "models"), "--json", str(out / "gpu.json"), *given]
        return Step(name, [str(python), *script, "--only", *parts], limit_s)

    def tests(name: str, limit_s: float, *files: Path) -> Step:
        # Warnings of versions that the project is not pinned to are no errors there.
        flags = ["-m", "gpu", "-q", "-W", "default", "-p", "no:cacheprovider", f"--basetemp={work / name}", f"--junit-xml={out / name}.xml"]
        given = [] if checkpoint is None else ["--minilm", str(checkpoint)]
        return Step(name, [str(python), "-m", "pytest", *flags, *given, *map(str, files)], limit_s)

    engine = ROOT / "tests" / "runtime" / "engines" / "test_on_gpu.py"
    others = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if MARKED.search(path.read_text("utf-8")) and path != engine]
    return [
        Step("facts", [str(python), "-c", _FACTS], 60),
        Step("smi", ["nvidia-smi"], 30),
        Step("doctor", [str(python), "-m", "cls_runtime.commands.doctor"], 120),
        bench("bundles", 240, "export"),
        bench("speed", 300, "texts", "one"),
        tests("tests", 300, engine),
        bench("model", 240, "model", "precisions", "limit", "memory"),
        tests("others", 240, *others),
        bench("budgets", 240, "budgets"),
    ]


def run(step: Step, *, log: TextIO, environment: dict[str, str], limit_s: float) -> str:
    """Runs a step, and says in a word or two how it ended."""
    log.write(f"\n===== {step.name}: {' '.join(step.command)[:2000]}\n")
    log.flush()
    try:
        process = subprocess.Popen(
            step.command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    except OSError as error:
        return f"not started: {error}"
    try:
        code = process.wait(limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # with all that it started, which would go on using the GPU
        process.wait()
        return f"cut off after {limit_s:.0f} s"
    return "ok" if code == 0 else f"ended with {code}"


def _last_lines(log: Path, count: int) -> list[str]:
    """What a step said last: of pytest, how many tests passed and how many skipped."""
    return [line[:300] for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()][-count:]


def _environment(python: Path) -> dict[str, str]:
    folders = [str(ROOT / "runtime"), str(ROOT / "exporter")]
    # CUDA's libraries where pip has them: for programs that load them before PyTorch or onnxruntime would.
    libraries = sorted(str(path) for path in python.parents[1].glob("lib/python*/site-packages/nvidia/*/lib"))
    known = os.environ.get("LD_LIBRARY_PATH", "")
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(folders),
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "LD_LIBRARY_PATH": os.pathsep.join([*libraries, *([known] if known else [])]),
    }


def _checkpoint(carried: Sequence[Path], work: Path, python: Path) -> Path | None:
    """The carried checkpoint, copied, with random weights where it has none."""
    found = next((folder / "checkpoint" for folder in carried if (folder / "checkpoint").is_dir()), None)
    if found is None:
        return None
    copied = shutil.copytree(found, work / "checkpoint", dirs_exist_ok=True)
    if not list(copied.glob("*.safetensors")):
        print("checkpoint/ has no weights, random ones are made: parity is that of another model", flush=True)
        subprocess.run([str(python), "-c", _RANDOM_WEIGHTS, str(copied)], check=True)
    return copied


def main(argv: Sequence[str] | None = None, *, plan: Callable[..., list[Step]] = steps) -> int:
    """Does what the module's docstring says. Ends with 1 where a step was not ok."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--carried", type=Path, nargs="+", required=True, metavar="DIR", help="what was carried there")
    parser.add_argument("--out", type=Path, required=True, help="the folder of results")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "gpu-session"), help="default: %(default)s")
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="STEP", help="these steps, in their usual order")
    options = parser.parse_args(argv)
    begun = time.monotonic()
    out, work = options.out.resolve(), options.work.resolve()
    for folder in (out, work):
        folder.mkdir(parents=True, exist_ok=True)
    python = make_environment(work / "environment", options.carried, packages=installed_packages())
    checkpoint = _checkpoint(options.carried, work, python)
    said = []
    with (out / "session.log").open("a", encoding="utf-8") as log:
        for step in plan(python, out=out, work=work, checkpoint=checkpoint):
            if options.only and step.name not in options.only:
                continue
            left, start = 60 * options.minutes - (time.monotonic() - begun), time.monotonic()
            ended = (
                "left out, no time"
                if left < LEAST_S
                else run(step, log=log, environment=_environment(python), limit_s=min(step.limit_s, left))
            )
            said.append(ended)
            line = f"{step.name}: {ended}, {time.monotonic() - start:.0f} s"
            print(line, *_last_lines(out / "session.log", 1), sep="\n    ", flush=True)
            log.write(f"===== {line}\n")
            log.flush()
    return 0 if set(said) <= {"ok"} else 1


if __name__ == "__main__":
    sys.exit(main())
