"""The bars of a server's life: its start, thousands of connections, hundreds of thousands of requests, and its end under load; and first,
what the load generator itself can do.
"""

from __future__ import annotations

import contextlib
import random
import resource
import signal
import socket
import statistics
import subprocess
import time
from collections import Counter
from collections.abc import Iterator

from cls_runtime.bench.bars import BarRecord, Figure
from cls_runtime.bench.http_messages import AnswerReader, request_bytes
from cls_runtime.bench.load_process import load
from cls_runtime.bench.load_streams import LEFT, LoadRecord, Stream
from cls_runtime.bench.open_loop import Pace
from cls_runtime.bench.server_process import ServerProcess
from cls_runtime.bench.serving_rig import CALLERS, EMBEDDINGS, REFUSED, Amounts, Rig, embedding_request, generator_words, percentile_ms
from cls_runtime.bench.trivial_responder import responder

LIVE = request_bytes("GET", "/live")
MIB = 2**20
LARGEST_BODY = 64 * 1024
FILES_MORE = 2  # that may be open at the end, of a server at rest
SETTLED = 0.1  # of a soak: what is held after so much of it is held to the end
_REST_SECONDS = 2.0


def connections(rig: Rig, amounts: Amounts) -> BarRecord:
    """Thousands of connections that do nothing, beside a thousand that each wait for an answer and ask again."""
    enough_files(2 * amounts.idle + 2 * amounts.active + 200)
    with rig.server() as server:
        before = server.resident_bytes
        with idle_connections(server, amounts.idle) as idle:
            held = (server.resident_bytes - before) / max(1, amounts.idle)
            stream = Stream(name="texts", requests=rig.requests, callers=amounts.active, seconds=amounts.active_seconds)
            live = Stream(name="live", requests=[LIVE], pace=Pace(rate=20, seconds=amounts.active_seconds, even=True))
            record = rig.load(server, stream, live)
            silent = sum(not answers(connection) for connection in idle)
    texts, probes = record.streams["texts"], record.streams["live"]
    failed = len(texts) - len(texts.taken(200, *REFUSED))
    figures = (
        Figure(name="active requests that failed", value=failed, most=0),
        Figure(name="idle connections without an answer afterwards", value=silent, most=0),
        Figure(name="unanswered /live requests", value=len(probes) - len(probes.taken(200)), most=0),
        Figure(name="answered", value=round(texts.ended_within(amounts.active_seconds, 200) / amounts.active_seconds), unit="texts/s"),
        Figure(name="p99", value=percentile_ms(texts.taken(200), 99), unit="ms"),
        Figure(name="requests refused", value=len(texts.taken(*REFUSED))),
        Figure(name="memory per idle connection", value=round(held), unit="bytes"),
    )
    how = f"{amounts.active_seconds:g} s; {generator_words(record)}"
    return BarRecord(test=f"{amounts.idle:,} idle connections, {amounts.active:,} active", figures=figures, how=how, quick=amounts.quick)


@contextlib.contextmanager
def idle_connections(server: ServerProcess, count: int) -> Iterator[list[socket.socket]]:
    """Connections that have had one answer each."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(count):
            opened.append(stack.enter_context(socket.create_connection(server.address, timeout=30)))
            if not answers(opened[-1]):
                raise SystemExit(f"connection {len(opened)} of {count} was not answered")
        yield opened


def answers(connection: socket.socket) -> bool:
    """Whether `/live` is answered on this connection."""
    reader = AnswerReader()
    try:
        connection.sendall(LIVE)
        while data := connection.recv(4096):
            if reader.feed(data):
                return reader.status == 200
    except OSError:
        pass
    return False


def enough_files(count: int) -> None:
    """Lets this process, and those that it starts, open so many files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


def soak(rig: Rig, amounts: Amounts) -> BarRecord:
    """Hundreds of thousands of requests, with resets, bodies that are too large, and bodies that end in the middle among them."""
    every = amounts.soak_requests // amounts.soak_slices
    settled = max(1, round(SETTLED * amounts.soak_slices))
    ended: Counter[str] = Counter()
    resident: list[float] = []
    files: list[int] = []
    # Nothing is refused for want of time: what becomes of each request is known.
    with rig.server("--max-body", f"{LARGEST_BODY // 1024}KiB", "--max-queue-ms", "30000") as server:
        capacity = rig.capacity(server, seconds=amounts.seconds)
        for number in range(amounts.soak_slices):
            record = rig.load(server, *soak_streams(rig, every, seconds=every / capacity, seed=number))
            for name, stream in record.streams.items():
                ended.update(f"{name} {status}" for status in stream.status)
            if number + 1 >= settled:
                at_rest(server)
                resident.append(server.resident_bytes / MIB)
                files.append(server.open_files)
        alive = server.process.poll() is None and server.ask("GET", "/live")[0] == 200
    count = sum(ended.values())
    expected = {"texts 200", "bulk 200", "too large 413", f"reset {LEFT}", f"cut {LEFT}"}
    # A server may refuse a body before it has read it all, and what it has said is lost where the rest arrives after that.
    others = {name: number for name, number in ended.items() if name not in expected and name != "too large 0"}
    figures = (
        Figure(name="growth of resident memory", value=round((resident[-1] / resident[0] - 1) * 100, 2), unit="%", most=5),
        Figure(name="additional open files", value=files[-1] - files[0], most=FILES_MORE),
        Figure(name="requests with an unexpected result", value=sum(others.values()), most=0),
        Figure(name="/live answers at the end", value=float(alive), least=1),
        Figure(name="resident memory after a tenth of the run", value=round(resident[0], 1), unit="MiB"),
        Figure(name="peak resident memory", value=round(max(resident), 1), unit="MiB"),
        Figure(name="requests", value=count),
    )
    counted = ", ".join(f"{name}: {number:,}" for name, number in sorted(ended.items()))
    return BarRecord(test=f"soak, {amounts.soak_requests:,} requests", figures=figures, how=f"by status: {counted}", quick=amounts.quick)


def soak_streams(rig: Rig, count: int, *, seconds: float, seed: int) -> list[Stream]:
    """A slice of a soak: `count` requests, of which one in fifty is cut, reset, too large or a bulk of 50 texts."""
    text = embedding_request(rig.texts[0])
    cut = request_bytes("POST", EMBEDDINGS, body=b'{"input": "' + bytes(2000))[:-1000]
    large = request_bytes("POST", EMBEDDINGS, body=b'{"input": "' + b"a" * (2 * LARGEST_BODY) + b'"}')

    def odd(name: str, request: bytes, share: float, leave: str | None = None) -> Stream:
        pace = Pace(rate=share * count / seconds, seconds=seconds, even=True, seed=seed)
        return Stream(name=name, requests=[request], pace=pace, connections=0, leave=leave)  # type: ignore[arg-type]

    odds = [
        odd("cut", cut, 0.005, "close"),
        odd("reset", text, 0.01, "reset"),
        odd("too large", large, 0.005),
        odd("bulk", embedding_request(rig.texts[:50]), 0.0025),
    ]
    return [Stream(name="texts", requests=rig.requests, callers=CALLERS, count=count - round(0.0225 * count)), *odds]


def at_rest(server: ServerProcess) -> None:
    """Waits until the server computes nothing."""
    for _ in range(50):
        before = server.cpu_seconds
        time.sleep(_REST_SECONDS / 10)
        if server.cpu_seconds - before < 0.02:
            return


def endings(rig: Rig, amounts: Amounts) -> BarRecord:
    """SIGTERM under load, again and again: every request that was sent before it is answered, and the process ends with 0."""
    source = random.Random(16)
    lost = after = answered = wrong_codes = 0
    seconds = []
    for _ in range(amounts.endings):
        with rig.server() as server:
            streams = (
                Stream(name="texts", requests=rig.requests, callers=CALLERS, seconds=20),
                Stream(name="bulk", requests=[embedding_request(rig.texts[:64])], callers=2, seconds=20),
            )
            with rig.running_load(server, *streams) as running:
                time.sleep(source.uniform(0.5, 1.5))
                signalled = time.monotonic()
                server.process.send_signal(signal.SIGTERM)
                record = running.record()
            try:
                wrong_codes += server.process.wait(timeout=40) != 0
            except subprocess.TimeoutExpired:
                wrong_codes += 1
            seconds.append(time.monotonic() - signalled)
        for stream in record.streams.values():
            answered += len(stream.taken(200))
            for sent, _status in stream.unanswered():
                before = record.started_at + sent < signalled
                lost, after = lost + before, after + (not before)
    figures = (
        Figure(name="requests sent before the signal and not answered", value=lost, most=0),
        Figure(name="exit codes other than 0", value=wrong_codes, most=0),
        Figure(name="requests sent after it and not answered", value=after),
        Figure(name="answered", value=answered, least=1),
        Figure(name="median time to exit", value=round(statistics.median(seconds), 2), unit="s"),
    )
    how = f"{CALLERS} callers of one text and 2 of 64, the signal at a random moment, {amounts.endings} servers"
    return BarRecord(test=f"SIGTERM under load, {amounts.endings} times", figures=figures, how=how, quick=amounts.quick)


def cold(rig: Rig, amounts: Amounts) -> BarRecord:
    """From the start of the process until `/ready` answers 200."""
    seconds = []
    for _ in range(amounts.starts + 1):  # the first fills the system's cache
        with rig.server() as server:
            seconds.append(round(server.ready_s, 3))
    figures = (
        Figure(name="slowest start", value=max(seconds[1:]), unit="s", most=1),
        Figure(name="median start", value=statistics.median(seconds[1:]), unit="s"),
    )
    how = f"{amounts.starts} starts on the server's CPUs, the bundle in the system's cache"
    return BarRecord(test="cold", figures=figures, how=how, quick=amounts.quick)


def generator(rig: Rig, amounts: Amounts) -> BarRecord:
    """What the generator reaches against a responder that computes nothing: more than any server is asked for."""
    with responder(cpus=rig.cpus.server) as address:

        def sent(**given: object) -> LoadRecord:
            stream = Stream(name="texts", requests=rig.requests, **given)  # type: ignore[arg-type]
            return load(address, [stream], cpus=rig.cpus.generator)

        most = sent(callers=CALLERS, seconds=amounts.seconds).streams["texts"].ended_within(amounts.seconds, 200) / amounts.seconds
        half = sent(pace=Pace(rate=most / 2, seconds=amounts.seconds), connections=64)
        alone = sent(callers=1, seconds=amounts.seconds).streams["texts"].taken(200)
    texts = half.streams["texts"]
    figures = (
        Figure(name="answers to 32 callers per second", value=round(most), unit=""),
        Figure(name="unanswered at half that rate", value=len(texts) - len(texts.taken(200)), most=0),
        Figure(name="CPU time per request", value=round(half.cpu_seconds / max(1, len(texts)) * 1e6), unit="us"),
        Figure(name="sent late, p99", value=percentile_ms(half.late_s, 99), unit="ms"),
        Figure(name="p50, from when a request was due", value=percentile_ms(texts.taken(200), 50), unit="ms"),
        Figure(name="p50 with one caller", value=percentile_ms(alone, 50), unit="ms"),
    )
    how = "a responder that computes nothing, on the server's CPUs"
    return BarRecord(test="the load generator itself", figures=figures, how=how, quick=amounts.quick)
