"""`cls-serve` beside other servers, on the same model, CPUs, texts and load.

    python benchmarks/serving_peers.py BUNDLE --checkpoint MODEL --json benchmarks/results/vnni/serving_peers.json

Of each: texts a second of 32 callers who each wait for their answer, latency at random arrivals of 80% of that, and what it does at four
times that. Its vectors are held to the bundle's fp32 first. infinity runs in an environment of its own, made on first use; its programs are
in benchmarks/peers/infinity. text-embeddings-inference is no package on PyPI, npm or Debian, so it is not here. A side that cannot run is
in the result with the reason. Every side is written as soon as it is measured; `--sides` measures some, and the file keeps the others.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from cls_runtime import Encoder
from cls_runtime.bench.cpu_split import CpuSplit, cpu_split
from cls_runtime.bench.http_messages import request_bytes
from cls_runtime.bench.load_process import load
from cls_runtime.bench.load_streams import LoadRecord, Stream
from cls_runtime.bench.machine import this_host
from cls_runtime.bench.open_loop import Pace
from cls_runtime.bench.peer_environments import (
    PeerError,
    converted,
    default_environments,
    environment,
    program_command,
    program_environment,
    programs,
)
from cls_runtime.bench.results import Host, write_samples
from cls_runtime.bench.server_process import ServerProcess, free_port, serve_command, server_process
from cls_runtime.bench.serving_rig import CALLERS, REFUSED, percentile_ms
from cls_runtime.bench.table import UNKNOWN, Table, digits, markdown
from cls_runtime.bench.texts import calibration_sentences, docstring_sentences
from cls_runtime.bundle.manifest import Manifest, read_manifest
from cls_runtime.bundle.parity import cosines
from cls_runtime.bundle.typed_json import parsed, typed
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.errors import EngineError

OURS, INFINITY = "cls-serve", "infinity"
SIDES = (f"{OURS}:int8", f"{OURS}:fp32", f"{INFINITY}:torch", f"{INFINITY}:onnx", f"{INFINITY}:onnx_int8")
TIMES_CAPACITY, LOAD = 4.0, 0.8
LEAST_MEAN_COSINE = 0.95
PARITY_TEXTS = 64


@dataclass(frozen=True, kw_only=True)
class ServerSide:
    """A server, or why it could not be measured: `p50_ms` and `p99_ms` at 80% of its capacity, what begins with `over` at four times it.

    Attributes:
        capacity: texts a second of 32 callers.
        over_goodput: answers a second while the load lasted.
        over_p99_ms: of the answers; over_refused, over_failed: of all requests, the share that was refused, and that got no answer.
        over_alive_p99_ms: of `/live` or its like, 20 a second; over_rest_s: how long answers still came after the load had ended.
        resident_mb: memory before the load, and after it.
    """

    name: str
    failed: str | None = None
    mean_cosine: float = 0.0
    ready_s: float = 0.0
    capacity: float = 0.0
    p50_ms: float | None = None
    p99_ms: float | None = None
    over_goodput: float = 0.0
    over_p99_ms: float | None = None
    over_refused: float = 0.0
    over_failed: float = 0.0
    over_alive_p99_ms: float | None = None
    over_rest_s: float = 0.0
    resident_mb: tuple[float, ...] = ()
    generator_cpu: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """All sides that were measured here."""

    machine: Host
    model: str
    fingerprint: str
    cpus: str
    seconds: float
    over_seconds: float
    sides: Mapping[str, ServerSide] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What all sides are measured with."""

    bundle: Path
    checkpoint: Path
    manifest: Manifest
    texts: Sequence[str]
    reference: np.ndarray
    split: CpuSplit
    threads: int
    environments: Path
    seconds: float
    over_seconds: float
    install_limit_s: float = 1800.0


def measured(bench: Bench, name: str) -> ServerSide:
    """One side, from its start to its end."""
    try:
        with running(bench, name) as (server, path, alive):
            return under_load(bench, name, server, path, alive)
    except (PeerError, EngineError) as error:
        return ServerSide(name=name, failed=str(error))


@contextlib.contextmanager
def running(bench: Bench, name: str) -> Iterator[tuple[ServerProcess, str, str]]:
    """A side's server, the path of its embeddings and the one that says that it is alive."""
    server, _, settings = name.partition(":")
    port = free_port()
    if server == OURS:
        command = serve_command(bench.bundle, port, variant=settings, engine="auto", threads=bench.threads)
        with server_process(command, port, cpus=bench.split.server) as process:
            yield process, "/v1/embeddings", "/live"
        return
    python = environment(server, bench.environments, limit_s=bench.install_limit_s)
    manifest, limit_s = bench.manifest, bench.install_limit_s
    length, pooling, checkpoint = manifest.max_length, manifest.pooling, bench.checkpoint
    work = converted(
        server,
        python,
        bench.environments,
        checkpoint=checkpoint,
        max_length=length,
        pooling=pooling,
        calibration=calibration_sentences(8),
        limit_s=limit_s,
    )
    program = programs() / server / "serve.py"
    command = program_command(
        python, program, checkpoint=checkpoint, work=work, threads=bench.threads, max_length=length, pooling=pooling, settings=settings
    )
    command.insert(2, str(port))
    surroundings = program_environment(threads=bench.threads, offline=True)
    with server_process(command, port, cpus=bench.split.server, environment=surroundings, ready_path="/health") as process:
        yield process, "/embeddings", "/health"


def under_load(bench: Bench, name: str, server: ServerProcess, path: str, alive: str) -> ServerSide:
    """Parity, capacity, latency, and too much."""
    model = {} if name.startswith(OURS) else {"model": "model"}
    status, body = server.ask("POST", path, body=json.dumps({"input": list(bench.texts[:PARITY_TEXTS]), **model}).encode())
    if status != 200:
        raise EngineError(f"{path} answered {status}: {body[:200].decode(errors='replace')}")
    vectors = np.array([item["embedding"] for item in json.loads(body)["data"]], dtype=np.float32)
    cosine = float(np.mean(cosines(bench.reference, vectors)))
    if cosine < LEAST_MEAN_COSINE:
        raise EngineError(f"its vectors are others: mean cosine {cosine:.4f}, expected at least {LEAST_MEAN_COSINE}")
    requests = [request_bytes("POST", path, body=json.dumps({"input": text, **model}).encode()) for text in bench.texts]

    def loaded(*streams: Stream) -> LoadRecord:
        return load(server.address, streams, cpus=bench.split.generator)

    for _ in range(2):  # the first is a warm-up
        closed = loaded(Stream(name="texts", requests=requests, callers=CALLERS, seconds=bench.seconds)).streams["texts"]
    capacity = closed.ended_within(bench.seconds, 200) / bench.seconds
    if not capacity:
        raise EngineError(f"none of {CALLERS} callers got an answer; by status: {closed.counts()}")
    pace = Pace(rate=LOAD * capacity, seconds=2 * bench.seconds)
    taken = loaded(Stream(name="texts", requests=requests, pace=pace, connections=64)).streams["texts"].taken(200)
    resident = [server.resident_bytes / 1e6]
    over = Pace(rate=TIMES_CAPACITY * capacity, seconds=bench.over_seconds)
    record = loaded(
        Stream(name="texts", requests=requests, pace=over, connections=64),
        Stream(name="alive", requests=[request_bytes("GET", alive)], pace=Pace(rate=20, seconds=bench.over_seconds, even=True)),
    )
    resident.append(server.resident_bytes / 1e6)
    texts = record.streams["texts"]
    refused = len(texts.taken(*REFUSED))
    return ServerSide(
        name=name,
        mean_cosine=round(cosine, 6),
        ready_s=round(server.ready_s, 2),
        capacity=round(capacity, 1),
        p50_ms=percentile_ms(taken, 50),
        p99_ms=percentile_ms(taken, 99),
        over_goodput=round(texts.ended_within(bench.over_seconds, 200) / bench.over_seconds, 1),
        over_p99_ms=percentile_ms(texts.taken(200), 99),
        over_refused=round(refused / len(texts), 4),
        over_failed=round((len(texts) - refused - len(texts.taken(200))) / len(texts), 4),
        over_alive_p99_ms=percentile_ms(record.streams["alive"].taken(200), 99),
        over_rest_s=round(max(0.0, record.wall_seconds - bench.over_seconds), 1),
        resident_mb=tuple(round(value, 1) for value in resident),
        generator_cpu=round(record.cpu_share, 3),
    )


def read(path: Path) -> Comparison:
    """The file of a run."""
    return typed(parsed(path.read_text(encoding="utf-8")), Comparison, path.name)


def table(held: Comparison) -> str:
    """The sides as benchmarks/serving.md has them."""
    rows = []
    for side in held.sides.values():
        if side.failed is not None:
            rows.append((side.name, side.failed, *[UNKNOWN] * 9))
            continue
        rows.append(
            (
                *(side.name, f"{side.mean_cosine:.4f}", f"{side.ready_s:.1f}", f"{side.capacity:,.0f}"),
                f"{_ms(side.p50_ms)} / {_ms(side.p99_ms)}",
                *(f"{side.over_goodput / side.capacity:.0%}", _ms(side.over_p99_ms), f"{side.over_refused:.0%}", f"{side.over_failed:.0%}"),
                *(_ms(side.over_alive_p99_ms), f"{side.over_rest_s:.0f}"),
            )
        )
    made = Table(
        key="serving_peers",
        title="Other servers",
        caption=(
            f"{held.model} on {held.machine.cpu}; {held.cpus}; one text per request, sent at random times at 80% and 400% of the "
            f"throughput with {CALLERS} callers (texts/s). At 400%, for {held.over_seconds:g} s: goodput relative to that throughput, p99 "
            "of answers, share refused, share without an answer, p99 of a probe, and seconds from the end of the load to the last answer."
        ),
        header=(
            *("server", "mean cosine to fp32", "ready s", "texts/s", "at 80%: p50 / p99 ms", "at 400%: goodput", "p99 ms", "refused"),
            *("no answer", "probe p99 ms", "rest s"),
        ),
        rows=tuple(rows),
    )
    return f"{markdown(made)}\n\n{made.caption}"


def _ms(value: float | None) -> str:
    return UNKNOWN if value is None else digits(value)


def main() -> int:
    """Measures each side and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path, help="with the pooling of the checkpoint's own vectors")
    parser.add_argument("--checkpoint", type=Path, required=True, help="the folder of the model that the bundle was made from")
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES), metavar="SIDE", help=f"of {', '.join(SIDES)}")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each closed load; at 80%% twice that")
    parser.add_argument("--over-seconds", type=float, default=30.0, help="of four times the capacity")
    parser.add_argument("--environments", type=Path, default=default_environments(), help="where the peers' environments are")
    parser.add_argument("--json", type=Path, help="keeps every side; those that are not measured stay as they are")
    options = parser.parse_args()
    split = cpu_split()
    threads = split.threads(available_cpus())
    manifest = read_manifest(options.bundle)
    texts = docstring_sentences(500)
    with Encoder.load(options.bundle, variant="fp32", on_overflow="truncate") as encoder:
        reference = encoder.encode(texts[:PARITY_TEXTS], prompt="")
    bench = Bench(
        bundle=options.bundle,
        checkpoint=options.checkpoint,
        manifest=manifest,
        texts=texts,
        reference=np.asarray(reference, dtype=np.float32),
        split=split,
        threads=threads,
        environments=options.environments,
        seconds=options.seconds,
        over_seconds=options.over_seconds,
    )
    held = Comparison(
        machine=this_host(),
        model=manifest.source.name,
        fingerprint=manifest.fingerprint,
        cpus=f"{split.words}; engine threads: {threads}",
        seconds=options.seconds,
        over_seconds=options.over_seconds,
    )
    if options.json and options.json.exists():
        held = replace(held, sides=read(options.json).sides)
    for name in options.sides:
        side = measured(bench, name)
        print(f"{name}: {side.failed or f'{side.capacity:,.0f} texts/s'}", file=sys.stderr)
        held = replace(held, sides={**held.sides, name: side})
        if options.json:
            write_samples(options.json, held)
    print(table(held))
    return 0


if __name__ == "__main__":
    sys.exit(main())
