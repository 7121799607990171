"""What the measurements of a server share: a bundle, texts, CPUs, and how server, generator and Encoder are started on them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cls_runtime.bench.cpu_split import CpuSplit
from cls_runtime.bench.http_messages import request_bytes
from cls_runtime.bench.in_process import InProcess, in_process
from cls_runtime.bench.load_process import RunningLoad, load, running_load
from cls_runtime.bench.load_streams import LoadRecord, Stream
from cls_runtime.bench.server_process import ServerProcess, free_port, serve_command, server_process

CALLERS = 32
REFUSED = (429, 503)
EMBEDDINGS = "/v1/embeddings"


@dataclass(frozen=True, kw_only=True)
class Rig:
    """A bundle's side and the texts to measure it with. `threads` are the engine's, in the server and without it."""

    bundle: Path
    variant: str
    engine: str
    texts: Sequence[str]
    threads: int
    cpus: CpuSplit

    @property
    def requests(self) -> list[bytes]:
        """A request of OpenAI's protocol for each text."""
        return [embedding_request(text) for text in self.texts]

    @contextlib.contextmanager
    def server(self, *options: str) -> Iterator[ServerProcess]:
        """`cls-serve` with more options, on the server's CPUs.

        Raises:
            EngineError: it cannot be started.
        """
        port = free_port()
        command = serve_command(self.bundle, port, variant=self.variant, engine=self.engine, threads=self.threads, options=options)
        with server_process(command, port, cpus=self.cpus.server) as server:
            yield server

    def alone(self) -> contextlib.AbstractContextManager[InProcess]:
        """An Encoder without a server, on the server's CPUs."""
        return in_process(self.bundle, variant=self.variant, engine=self.engine, threads=self.threads, cpus=self.cpus.server)

    def load(self, server: ServerProcess, *streams: Stream) -> LoadRecord:
        """Sends streams from the generator's CPUs, to their end."""
        return load(server.address, streams, cpus=self.cpus.generator)

    def running_load(self, server: ServerProcess, *streams: Stream) -> contextlib.AbstractContextManager[RunningLoad]:
        """The same, while something else is done."""
        return running_load(server.address, streams, cpus=self.cpus.generator, answer_limit_s=30.0)

    def capacity(self, server: ServerProcess, *, seconds: float, callers: int = CALLERS) -> float:
        """Texts a second of so many callers, each of which sends the next text when it has the last answer; after a warm-up."""
        warm_up = Stream(name="texts", requests=self.requests, callers=callers, seconds=min(2.0, seconds))
        self.load(server, warm_up)
        record = self.load(server, Stream(name="texts", requests=self.requests, callers=callers, seconds=seconds))
        return record.streams["texts"].ended_within(seconds, 200) / seconds


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How much of everything. `singles_load` is the load of singles beside a bulk, over the capacity."""

    seconds: float = 5.0
    rounds: int = 5
    overload_seconds: float = 60.0
    times_capacity: float = 4.0
    bulk_seconds: float = 20.0
    singles_load: float = 0.5
    starts: int = 5
    idle: int = 4096
    active: int = 1000
    active_seconds: float = 20.0
    soak_requests: int = 500_000
    soak_slices: int = 50
    endings: int = 20
    quick: bool = False


QUICK = Amounts(
    seconds=0.5,
    rounds=2,
    overload_seconds=2.0,
    bulk_seconds=2.0,
    starts=1,
    idle=64,
    active=32,
    active_seconds=1.0,
    soak_requests=1200,
    soak_slices=3,
    endings=2,
    quick=True,
)


def embedding_request(given: str | Sequence[str]) -> bytes:
    """A request of OpenAI's protocol, of one text or of many."""
    return request_bytes("POST", EMBEDDINGS, body=json.dumps({"input": given if isinstance(given, str) else list(given)}).encode())


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """A percentile in milliseconds; None where there is nothing."""
    return round(float(np.percentile(seconds, percent)) * 1e3, 3) if len(seconds) else None


def generator_words(record: LoadRecord) -> str:
    """What a generator says of itself."""
    still = f"; the machine stood still for {record.longest_pause_s:.1f} s, measure again" if record.stood_still else ""
    return f"generator: {record.cpu_share:.0%} of a CPU, sent {percentile_ms(record.late_s, 99)} ms late at p99{still}"
