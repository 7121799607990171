"""Several GPUs as one engine: a graph on each, and each run on the one that has least to do."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence

from cls_runtime.engines.base import Engine, Float32, TokenBatch


class GpuPool:
    """Engines of several GPUs. Which of them runs a batch is not told, and makes no difference: they have one graph."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self._engines = tuple(engines)
        self._lock = threading.Lock()
        self._runs = [0] * len(self._engines)  # under way
        first = self._engines[0]
        self.name = first.name
        self.providers = first.providers
        self.batching = first.batching
        self.workers = sum(engine.workers for engine in self._engines)

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens a run of this batch computes beside its own."""
        return self._engines[0].padding_tokens(batch)

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch on one of the GPUs; see `Engine.run`. An error names that GPU."""
        with self._lock:
            place = self._runs.index(min(self._runs))
            self._runs[place] += 1
        try:
            return self._engines[place].run(batch, outputs)
        finally:
            with self._lock:
                self._runs[place] -= 1

    def close(self) -> None:
        """Closes all engines, also where one of them fails to."""
        with contextlib.ExitStack() as stack:
            for engine in self._engines:
                stack.callback(engine.close)
