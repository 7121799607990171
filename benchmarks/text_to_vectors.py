"""How fast is a list of texts a matrix of vectors, here and with what people would use instead?

Each side is a process of its own, a peer in an environment of its own (benchmarks/peers/PEER/requirements.txt, made on first use). All have
the same texts and threads. They take turns, the order changes every round, and who is not on turn computes nothing. Before anything is
timed, each side's vectors are held against the first side's. Every sample is kept.

    python benchmarks/text_to_vectors.py models/all-MiniLM-L6-v2 --checkpoint path/to/checkpoint
    python benchmarks/text_to_vectors.py BUNDLE --checkpoint DIR --ours onnxruntime:fp32 --peers transformers:as_given --json result.json
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import venv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from cls_runtime.parity import Float32, compare

HERE = Path(__file__).resolve().parent
# A peer and how it is used, at its defaults and at its best; the runner's docstring says what each means.
PEERS = (
    *("transformers:as_given", "transformers:sorted"),
    *("sentence_transformers:torch", "sentence_transformers:onnx_int8"),
    *("ctranslate2:defaults", "ctranslate2:sorted"),
    *("openvino_nncf:defaults", "openvino_nncf:sorted", "openvino_nncf:fp32"),
)
# A lower mean cosine to fp32 is another model, and its time means nothing. int8 without calibration for the last layer reaches about 0.98.
LEAST_MEAN_COSINE = 0.95


@dataclass(kw_only=True)
class Side:
    """One side's run: the seconds of every round, and how close its vectors are to the first side's."""

    name: str
    settings: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)
    mean_cosine: float = 0.0
    min_cosine: float = 0.0
    texts_per_second: float = 0.0
    failed: str | None = None


@dataclass(frozen=True, kw_only=True)
class Result:
    """Everything measured. `ratios` is ours over theirs in texts/s: the median of the rounds' ratios, and its range."""

    bundle: str
    texts: int
    mean_tokens: float
    threads: int
    machine: str
    python: str
    sides: list[Side]
    ratios: dict[str, dict[str, tuple[float, float, float]]]


class Runner:
    """A side's process."""

    def __init__(self, python: Path, peer: str, *, checkpoint: Path, work: Path, threads: int, settings: str, log: Path) -> None:
        work.mkdir(parents=True, exist_ok=True)
        command = [python, HERE / "peers" / peer / "run.py", "--checkpoint", checkpoint, "--work", work, "--threads", threads]
        paths = os.pathsep.join([str(HERE / "peers" / "common"), *([str(HERE.parent / "runtime")] if peer == "cls_export" else [])])
        self._log = log
        with log.open("w") as written:
            self._process = subprocess.Popen(
                [str(part) for part in command] + ["--settings", settings],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
                env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"},
            )
        self.greeting = self._answer()

    def embed(self, texts: Path, vectors: Path) -> float:
        """Seconds for the texts in the JSON file `texts`; the vectors go to `vectors`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"texts": str(texts), "vectors": str(vectors)}) + "\n")
        self._process.stdin.flush()
        return float(self._answer()["seconds"])

    def close(self) -> None:
        """Ends the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self.close()
            last = self._log.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
            raise RuntimeError(f"ended with exit code {self._process.returncode}: {last[0][:300]}")
        answer: dict[str, Any] = json.loads(line)
        return answer


def environment(peer: str, folder: Path) -> Path:
    """The interpreter of a peer's own environment, made where it is not there.

    Raises:
        RuntimeError: pip cannot install the peer; its last line.
    """
    home = folder / peer / "environment"
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    requirements = HERE / "peers" / peer / "requirements.txt"
    installed = home / "requirements.txt"
    if not installed.exists() or installed.read_text() != requirements.read_text():
        print(f"installing {peer} ...", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "-r", str(requirements)], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"cannot be installed: {(done.stderr.strip().splitlines() or ['no output'])[-1][:300]}")
        installed.write_text(requirements.read_text())
    return python


def docstring_sentences(count: int) -> list[str]:
    """Sentences of 8 to 40 words from the docstrings of Python's own library: real text that every Python has."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")) + sorted(Path(sysconfig.get_path("stdlib")).glob("[a-z]*/*.py")):
        try:
            tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and (text := ast.get_docstring(node)):
                for sentence in re.split(r"(?<=[.!?])\s+", " ".join(text.split())):
                    if 8 <= len(sentence.split()) <= 40:
                        found[sentence] = None
                        if len(found) == count:
                            return list(found)
    return list(found)


def measure(
    bundle: Path,
    checkpoint: Path,
    *,
    texts: Sequence[str],
    ours: Sequence[str],
    peers: Sequence[str],
    threads: int,
    rounds: int,
    folder: Path,
) -> Result:
    """Starts every side, holds its vectors against the first side's, and times them in turns."""
    sides: dict[str, Side] = {}
    runners: dict[str, Runner] = {}
    with tempfile.TemporaryDirectory() as scratch:
        given, vectors = Path(scratch, "texts.json"), Path(scratch, "vectors.npy")
        given.write_text(json.dumps(list(texts)), encoding="utf-8")
        reference: Float32 | None = None
        try:
            for name in [f"cls_export:{item}" for item in ours] + list(peers):
                peer, settings = name.split(":", 1)
                side = sides[name] = Side(name=name)
                try:
                    python = Path(sys.executable) if peer == "cls_export" else environment(peer, folder)
                    source = bundle if peer == "cls_export" else checkpoint
                    work = folder / peer / checkpoint.resolve().name
                    log = Path(scratch, f"{peer}-{settings.replace(':', '-')}.log")
                    runner = Runner(python, peer, checkpoint=source, work=work, threads=threads, settings=settings, log=log)
                    side.settings, side.versions = runner.greeting["settings"], runner.greeting["versions"]
                    runner.embed(given, vectors)
                    found = np.load(vectors)
                    reference = found if reference is None else reference
                    figures = compare(reference, found)
                    side.mean_cosine, side.min_cosine = figures.mean_cosine, figures.min_cosine
                    print(f"{name}: ready, {side.settings}", file=sys.stderr)
                    if side.mean_cosine < LEAST_MEAN_COSINE:
                        runner.close()
                        raise RuntimeError(f"mean cosine {side.mean_cosine:.4f} to {next(iter(sides))}: another model, not timed")
                    runners[name] = runner
                except (RuntimeError, OSError, ValueError) as error:
                    side.failed = str(error)
                    print(f"{name}: {error}", file=sys.stderr)
            for index in range(rounds):
                for name in list(runners)[:: -1 if index % 2 else 1]:
                    sides[name].seconds.append(runners[name].embed(given, vectors))
        finally:
            for runner in runners.values():
                runner.close()
    for side in sides.values():
        if side.seconds:
            side.texts_per_second = len(texts) / statistics.median(side.seconds)
    tokenizer = Tokenizer.from_file(str(bundle / "tokenizer.json"))
    return Result(
        bundle=bundle.name,
        texts=len(texts),
        mean_tokens=statistics.fmean(len(item.ids) for item in tokenizer.encode_batch(list(texts))),
        threads=threads,
        machine=platform.machine(),
        python=platform.python_version(),
        sides=list(sides.values()),
        ratios=_ratios([side for side in sides.values() if side.seconds]),
    )


def _ratios(sides: Sequence[Side]) -> dict[str, dict[str, tuple[float, float, float]]]:
    ratios: dict[str, dict[str, tuple[float, float, float]]] = {}
    for ours in (side for side in sides if side.name.startswith("cls_export:")):
        for theirs in (side for side in sides if side is not ours):
            found = sorted(b / a for a, b in zip(ours.seconds, theirs.seconds, strict=True))
            ratios.setdefault(ours.name, {})[theirs.name] = (statistics.median(found), found[0], found[-1])
    return ratios


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--checkpoint", type=Path, required=True, help="the checkpoint that the bundle was made from, for the peers")
    parser.add_argument("--texts", type=Path, help="a text a line; default: sentences from the docstrings of Python's own library")
    parser.add_argument("--count", type=int, default=3000, help="how many of the texts (default %(default)s)")
    parser.add_argument("--ours", nargs="+", default=["onnxruntime:fp32"], metavar="ENGINE:VARIANT", help="the first is the reference")
    parser.add_argument("--peers", nargs="*", default=list(PEERS), metavar="PEER:SETTINGS", help="default: %(default)s")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--environments", type=Path, default=HERE.parent / "build" / "peers", help="default: %(default)s")
    parser.add_argument("--json", type=Path, help="write every sample to this file")
    options = parser.parse_args()
    texts = docstring_sentences(options.count) if options.texts is None else options.texts.read_text(encoding="utf-8").splitlines()
    result = measure(
        options.bundle,
        options.checkpoint,
        texts=[text for text in texts if text.strip()][: options.count],
        ours=options.ours,
        peers=options.peers,
        threads=options.threads,
        rounds=options.rounds,
        folder=options.environments.resolve(),
    )
    print(f"{result.texts} texts of mean {result.mean_tokens:.1f} tokens, {result.threads} threads, {options.rounds} rounds in turns")
    for side in result.sides:
        print(f"  {side.name:32} {side.texts_per_second:7.0f} texts/s  mean cosine {side.mean_cosine:.6f}  {side.failed or ''}".rstrip())
    for ours, ratios in result.ratios.items():
        print(f"{ours} is faster by")
        for theirs, (median, low, high) in ratios.items():
            print(f"  {theirs:32} {median:5.2f} ({low:.2f} to {high:.2f})")
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")


if __name__ == "__main__":
    main()
