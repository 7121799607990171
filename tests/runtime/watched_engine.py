"""An engine that a test watches, holds up or lets fail: `Encoder.of` takes it in the place of the one that it would load."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence

import numpy as np

from cls_runtime import Bundle
from cls_runtime.engines.base import Engine, TokenBatch
from cls_runtime.engines.choice import choose, engine_module

HANGS = 600  # seconds; a wait in another thread would outlive pytest's own limit
Run = Callable[[TokenBatch, Sequence[str]], list[np.ndarray]]


class WatchedEngine:
    """The bundle's graph on the engine that `auto` takes. Where `around` is set, it gets each run and its arguments in the run's place."""

    def __init__(self, bundle: Bundle, *, threads: int) -> None:
        choice = choose(bundle.manifest)
        self._engine: Engine = engine_module(choice.engine).load(bundle, variant=choice.variant, threads=threads)
        self.name, self.workers, self.providers = self._engine.name, self._engine.workers, self._engine.providers
        self.batching = self._engine.batching
        self.around: Callable[[Run, TokenBatch, Sequence[str]], list[np.ndarray]] | None = None
        self.closed = False

    def padding_tokens(self, batch: TokenBatch) -> int:
        return self._engine.padding_tokens(batch)

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[np.ndarray]:
        return self._engine.run(batch, outputs) if self.around is None else self.around(self._engine.run, batch, outputs)

    def close(self) -> None:
        self.closed = True
        self._engine.close()


class Gate:
    """Around an engine's runs: none of them computes until it is opened. `texts` are how many their batches have."""

    def __init__(self) -> None:
        self.opened, self.entered = threading.Event(), threading.Event()
        self.texts: list[int] = []

    def __call__(self, run: Run, batch: TokenBatch, outputs: Sequence[str]) -> list[np.ndarray]:
        self.texts.append(batch.texts)
        self.entered.set()
        assert self.opened.wait(HANGS)
        return run(batch, outputs)

    async def holds_a_run(self) -> None:
        """Returns once a run is held up."""
        assert await asyncio.to_thread(self.entered.wait, HANGS)
