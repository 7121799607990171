"""One side of a comparison: what it takes to have its model loaded and its first vectors, and what is known of it afterwards."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cls_runtime.bench.peer_environments import (
    OURS,
    PeerError,
    converted,
    interpreter,
    own_source,
    program_command,
    program_environment,
    programs,
)
from cls_runtime.bench.peer_process import PeerProcess
from cls_runtime.bundle.files import named_when_full
from cls_runtime.bundle.manifest import ParityFigures, Pooling
from cls_runtime.bundle.parity import Float32


@dataclass(frozen=True, kw_only=True)
class PeerLimits:
    """How long a side may take for each step, in seconds; one that takes longer has failed."""

    install_s: float = 1800
    convert_s: float = 1800
    answer_s: float = 600


@dataclass(frozen=True, kw_only=True)
class PeerSide:
    """One side of the comparison.

    `name` is `peer:settings` (`fastembed:int8`) or `cls-export:engine:variant`. `seconds` has the time of every round, in order. `parity`
    compares with the reference's vectors. A side that failed says why in `failed`, on one line, and has no figure of speed.
    """

    name: str
    settings: str = ""
    versions: Mapping[str, str]
    seconds: tuple[float, ...] = ()
    texts_per_second: float | None = None
    parity: ParityFigures | None = None
    failed: str | None = None

    @property
    def ours(self) -> bool:
        """Whether it is this project."""
        return self.name.startswith(f"{OURS}:")


@dataclass(kw_only=True)
class RunningSide:
    """A side while it is measured."""

    name: str
    process: PeerProcess | None = None
    settings: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    vectors: Float32 | None = None
    parity: ParityFigures | None = None
    seconds: tuple[float, ...] = ()
    failed: str | None = None

    @property
    def peer(self) -> str:
        """The part of the name that says who, `fastembed` in `fastembed:int8`."""
        return self.name.partition(":")[0]

    def fail(self, reason: str) -> None:
        """Ends the side, which is not timed any more."""
        self.failed = reason
        self.end()

    def end(self) -> None:
        """Ends the process, if there is one. May be called more than once."""
        if self.process is not None:
            self.process.close()
            self.process = None

    def result(self, texts: Sequence[int]) -> PeerSide:
        """What was measured, with this number of texts in each round."""
        speeds = [count / seconds for count, seconds in zip(texts, self.seconds, strict=False)]
        return PeerSide(
            name=self.name,
            settings=self.settings,
            versions=self.versions,
            seconds=self.seconds,
            texts_per_second=statistics.median(speeds) if speeds and self.failed is None else None,
            parity=self.parity,
            failed=self.failed,
        )


@dataclass(frozen=True, kw_only=True)
class SideLauncher:
    """Brings sides to where they have loaded their models and embedded the texts once. It has what all of them have in common."""

    bundle: Path
    checkpoint: str | Path
    max_length: int
    pooling: Pooling
    calibration: tuple[str, ...]
    threads: int
    environments: Path
    limits: PeerLimits
    scratch: Path

    @property
    def texts(self) -> Path:
        """A JSON list of what every side embeds next."""
        return self.scratch / "texts.json"

    def give(self, texts: Sequence[str]) -> None:
        """Says what every side embeds next."""
        with named_when_full(self.texts):
            self.texts.write_text(json.dumps(list(texts)), encoding="utf-8")

    @property
    def vectors(self) -> Path:
        """Where a side writes its vectors; the next side overwrites them."""
        return self.scratch / "vectors.npy"

    def launch(self, side: RunningSide) -> None:
        """Starts the side, and keeps its vectors; or notes why it failed."""
        try:
            side.process = self._process(side)
            side.settings, side.versions = side.process.settings, side.process.versions
            side.process.embed(self.texts, self.vectors)
            side.vectors = np.load(self.vectors)
        except PeerError as error:
            side.fail(str(error))

    def _process(self, side: RunningSide) -> PeerProcess:
        settings = side.name.partition(":")[2]
        ours = side.peer == OURS
        source = self.bundle if ours else self.checkpoint
        python = interpreter(side.peer, settings, self.environments, limit_s=self.limits.install_s)
        work = converted(
            side.peer,
            python,
            self.environments,
            checkpoint=source,
            max_length=self.max_length,
            pooling=self.pooling,
            calibration=self.calibration,
            limit_s=self.limits.convert_s,
        )
        command = program_command(
            python,
            programs() / side.peer / "run.py",
            checkpoint=source,
            work=work,
            threads=self.threads,
            max_length=self.max_length,
            pooling=self.pooling,
            settings=settings,
        )
        return PeerProcess(
            command,
            environment=program_environment(
                threads=self.threads, offline=isinstance(source, Path), source=own_source(python, self.environments) if ours else None
            ),
            log=self.scratch / f"{side.name.replace(':', '-')}.log",
            limit_s=self.limits.answer_s,
        )
