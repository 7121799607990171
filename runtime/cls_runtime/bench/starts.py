"""How long from the start of a process to its first vector, and how much memory does it hold? Each sample is a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from cls_runtime.bench.plan import PlannedSide
from cls_runtime.bench.results import ColdStart
from cls_runtime.bench.turns import in_turns
from cls_runtime.errors import EngineError

_PROGRAM = "cls_runtime.bench.first_vector"


def starts(bundle: str | Path, sides: Sequence[PlannedSide], texts: Sequence[str], *, threads: int, rounds: int) -> tuple[ColdStart, ...]:
    """Every side's processes, in turns. Load each side once before: the files are then in the system's cache, for all of them alike.

    Raises:
        EngineError: a process failed.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
        json.dump(list(texts), given)
        processes = in_turns(sides, lambda side, _: _process(_arguments(bundle, side, threads), given), rounds=rounds)
    return tuple(
        ColdStart(
            side=side.name,
            seconds=tuple(process["seconds"] for process in started),
            import_seconds=tuple(process["import_seconds"] for process in started),
            load_seconds=tuple(process["load_seconds"] for process in started),
            peak_bytes=tuple(int(process["peak_bytes"]) for process in started),
        )
        for side, started in processes.items()
    )


def _arguments(bundle: str | Path, side: PlannedSide, threads: int) -> list[str]:
    return [str(bundle), side.variant, side.engine, str(threads), *([] if side.device is None else [side.device])]


def _process(arguments: Sequence[str], texts: IO[str]) -> dict[str, float]:
    """One process from its start to its end: when its first vector was there, and what it says of itself."""
    texts.seek(0)
    start = time.perf_counter()
    with (
        tempfile.TemporaryFile() as log,
        subprocess.Popen([sys.executable, "-m", _PROGRAM, *arguments], stdin=texts, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        try:
            first = process.stdout.readline()
            seconds = time.perf_counter() - start
            rest = process.stdout.read()
            process.wait()
        except BaseException:  # a signal to this process alone
            process.kill()
            raise
        if process.returncode:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise EngineError(f"a new process that loads {' on '.join(arguments[1:3])} ended with exit code {process.returncode}: {last}")
    told: dict[str, float] = {**json.loads(first), **json.loads(rest)}
    return {"seconds": seconds, **told}
