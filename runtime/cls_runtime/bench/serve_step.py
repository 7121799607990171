"""The step of `cls-bench --serve`: each side behind `cls-serve`, under load at shares of its capacity, and without it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from cls_runtime.bench.cpu_split import CpuSplit, cpu_split
from cls_runtime.bench.http_messages import request_bytes
from cls_runtime.bench.in_process import in_process
from cls_runtime.bench.load_process import load
from cls_runtime.bench.load_streams import Address, Stream
from cls_runtime.bench.open_loop import Pace
from cls_runtime.bench.plan import PlannedSide
from cls_runtime.bench.server_process import free_port, serve_command, server_process
from cls_runtime.bench.serving_results import RateRecord, ServingRecord
from cls_runtime.bench.steps import Known
from cls_runtime.bench.trivial_responder import responder

CALLERS = 32
REFUSED = (429, 503)
# More in one run say nothing more; a fast side has shorter ones.
_MOST_REQUESTS = 4000
_CONNECTIONS = 64  # opened before a run; others are opened as they are needed
_STREAM = "texts"


def serving(known: Known) -> Known:
    """Every side that works here, one after another."""
    split = cpu_split()
    records = tuple(_served(known, side, split) for side in known.usable)
    return dataclasses.replace(known, serving=known.serving + records)


def embedding_requests(texts: Sequence[str]) -> list[bytes]:
    """A request of OpenAI's protocol for each text."""
    return [request_bytes("POST", "/v1/embeddings", body=json.dumps({"input": text}).encode()) for text in texts]


def _served(known: Known, side: PlannedSide, split: CpuSplit) -> ServingRecord:
    plan, bundle = known.plan, str(known.bundle.name)
    threads, seconds = split.threads(known.threads), plan.serve_seconds
    requests = embedding_requests(known.texts)
    with in_process(bundle, variant=side.variant, engine=side.engine, device=side.device, threads=threads, cpus=split.server) as alone:
        calls = alone.encode(known.texts, seconds=seconds)
        merged = alone.aencode(known.texts, callers=CALLERS, seconds=seconds)
    port = free_port()
    command = serve_command(bundle, port, variant=side.variant, engine=side.engine, device=side.device, threads=threads)
    with server_process(command, port, cpus=split.server) as server:
        closed_loop(server.address, requests, callers=CALLERS, seconds=min(1.0, seconds), cpus=split.generator)  # a warm-up
        capacity = closed_loop(server.address, requests, callers=CALLERS, seconds=seconds, cpus=split.generator)
        rates = tuple(
            rate_record(server.address, requests, rate=share * capacity, share=share, seconds=seconds, cpus=split.generator)
            for share in plan.serve_shares
        )
    with responder(cpus=split.server) as address:
        trivial_capacity = closed_loop(address, requests, callers=CALLERS, seconds=min(1.0, seconds), cpus=split.generator)
        share = max(plan.serve_shares)
        trivial = rate_record(address, requests, rate=share * capacity, share=share, seconds=seconds, cpus=split.generator)
    return ServingRecord(
        side=side.name,
        threads=threads,
        cpus=split.words,
        ready_s=server.ready_s,
        encode_s=calls.seconds,
        aencode_per_second=merged.per_second,
        callers=CALLERS,
        capacity=capacity,
        trivial=trivial,
        trivial_capacity=trivial_capacity,
        rates=rates,
    )


def closed_loop(address: Address, requests: Sequence[bytes], *, callers: int, seconds: float, cpus: Sequence[int]) -> float:
    """Answers a second to so many callers, each of which sends the next request when it has the last answer."""
    record = load(address, [Stream(name=_STREAM, requests=requests, callers=callers, seconds=seconds)], cpus=cpus)
    return record.streams[_STREAM].ended_within(seconds, 200) / seconds


def rate_record(
    address: Address, requests: Sequence[bytes], *, rate: float, share: float, seconds: float, cpus: Sequence[int]
) -> RateRecord:
    """Open-loop load at one rate, for `seconds` or until enough requests were due."""
    seconds = min(seconds, _MOST_REQUESTS / rate)
    pace = Pace(rate=rate, seconds=seconds)
    record = load(address, [Stream(name=_STREAM, requests=requests, pace=pace, connections=_CONNECTIONS)], cpus=cpus)
    stream = record.streams[_STREAM]
    answered, refused = stream.taken(200), stream.taken(*REFUSED)
    late = np.percentile(record.late_s or [0.0], (50, 99))
    return RateRecord(
        share=share,
        rate=rate,
        seconds=seconds,
        answered_s=tuple(answered),
        answered_in_time=stream.ended_within(seconds, 200),
        refused_s=tuple(refused),
        failed=len(stream) - len(answered) - len(refused),
        late_p50_s=float(late[0]),
        late_p99_s=float(late[1]),
        generator_cpu=record.cpu_share,
    )
