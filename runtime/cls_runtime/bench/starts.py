"""How long from the start of a process to its first vector, and how much memory does it hold? Each sample is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from cls_runtime.bench.plan import PlannedSide
from cls_runtime.bench.results import Start
from cls_runtime.errors import EngineError

_PROGRAM = "cls_runtime.bench.first_vector"


def starts(bundle: Path, sides: Sequence[PlannedSide], texts: Sequence[str], *, threads: int, rounds: int) -> tuple[Start, ...]:
    """Every side's processes, in turns. Load each side once before: the files are then in the system's cache, for all of them alike.

    Raises:
        EngineError: a process failed.
    """
    samples: dict[str, list[dict[str, float]]] = {side.name: [] for side in sides}
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
        json.dump(list(texts), given)
        for index in range(rounds):
            for side in sides[:: -1 if index % 2 else 1]:
                given.seek(0)
                samples[side.name].append(_sample([str(bundle), side.variant, side.engine, str(threads)], given))
    return tuple(
        Start(
            side=name,
            seconds=tuple(sample["seconds"] for sample in found),
            import_seconds=tuple(sample["import_seconds"] for sample in found),
            load_seconds=tuple(sample["load_seconds"] for sample in found),
            peak_bytes=tuple(int(sample["peak_bytes"]) for sample in found),
        )
        for name, found in samples.items()
    )


def _sample(arguments: Sequence[str], texts: IO[str]) -> dict[str, float]:
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([sys.executable, "-m", _PROGRAM, *arguments], stdin=texts, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        first = process.stdout.readline()
        seconds = time.perf_counter() - start
        rest = process.stdout.read()
        process.wait()
        if process.returncode:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise EngineError(f"a new process that loads {' on '.join(arguments[1:3])} ended with exit code {process.returncode}: {last}")
    found: dict[str, Any] = {**json.loads(first), **json.loads(rest)}
    return {"seconds": seconds, **found}
