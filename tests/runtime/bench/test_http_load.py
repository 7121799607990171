"""The load generator against responders whose times and refusals are known; each is a process of its own, as in a measurement."""

from __future__ import annotations

import json
import os
import signal
import socket
import statistics
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import pytest

from cls_runtime.bench import load_process
from cls_runtime.bench.child_process import child_process
from cls_runtime.bench.http_load import LoadGenerator
from cls_runtime.bench.http_messages import request_bytes
from cls_runtime.bench.load_process import load, running_load
from cls_runtime.bench.load_streams import LEFT, LOST, UNANSWERED, UNCONNECTED, Stream
from cls_runtime.bench.open_loop import Pace
from cls_runtime.bench.server_process import free_port, server_process
from cls_runtime.bench.trivial_responder import responder
from cls_runtime.errors import EngineError

REQUESTS = [request_bytes("POST", "/", body=b"x" * size) for size in range(1, 50)]
DELAY = 0.05


@pytest.fixture(scope="module")
def slow():
    """A responder that takes its time, and refuses each tenth."""
    with responder(delay_s=DELAY, refuse_every=10) as address:
        yield address


@pytest.fixture(scope="module")
def quick():
    with responder() as address:
        yield address


@contextmanager
def listening(answer):
    """A server in a thread that hands each connection to `answer`, in a thread of its own, and closes it afterwards."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        def handle(connection):
            with connection:
                answer(connection)

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()
        listener.shutdown(socket.SHUT_RDWR)


def test_a_responders_delay_is_what_is_measured(slow):
    stream = Stream(name="open", requests=REQUESTS, pace=Pace(rate=200, seconds=1.0), connections=4)
    record = load(slow, [stream]).streams["open"]
    assert len(record) == len(record.taken(200, 429)) > 150
    assert len(record.taken(429)) == len(record) // 10
    assert min(record.taken(200)) >= DELAY
    assert statistics.median(record.taken(200)) < 2 * DELAY
    assert statistics.median(record.taken(429)) < DELAY


def test_time_runs_from_when_a_request_was_due_and_not_from_when_it_was_sent(slow):
    """One connection answers twenty times a second, and forty are due: what waits for it gets later and later, and its time says so."""
    stream = Stream(name="open", requests=REQUESTS, pace=Pace(rate=40, seconds=1.0, even=True), connections=1, most_connections=1)
    record = load(slow, [stream]).streams["open"]
    assert len(record.taken(200, 429)) == len(record) == 40
    assert record.late_s[-1] > 0.5
    assert all(taken > late for late, taken in zip(record.late_s, record.taken_s, strict=True))
    assert record.ended_within(1.0, 200, 429) < 25


def test_a_closed_stream_sends_what_its_callers_get_answered(slow):
    record = load(slow, [Stream(name="closed", requests=REQUESTS, callers=4, count=40)])
    stream = record.streams["closed"]
    assert stream.counts().keys() == {200, 429}
    assert len(stream) == 40
    assert 9 * DELAY < record.wall_seconds < 30 * DELAY
    assert max(stream.late_s) < DELAY


def test_a_closed_stream_ends_with_its_time(slow):
    record = load(slow, [Stream(name="closed", requests=REQUESTS, callers=2, seconds=0.4)])
    assert 0.4 <= record.wall_seconds < 5.0
    assert max(record.streams["closed"].due_s) < 0.4


def test_streams_run_side_by_side(quick):
    streams = [
        Stream(name="closed", requests=REQUESTS, callers=2, seconds=0.5),
        Stream(name="open", requests=REQUESTS, pace=Pace(rate=50, seconds=0.5, even=True)),
        Stream(name="left", requests=REQUESTS, pace=Pace(rate=50, seconds=0.5, even=True), leave="reset"),
        Stream(name="closed early", requests=[b"POST / HTTP/1.1\r\ncontent-length: 9\r\n\r\nhalf"], callers=1, count=5, leave="close"),
    ]
    with running_load(quick, streams) as running:
        assert 0 <= time.monotonic() - running.started_at < 30
        record = running.record()
    assert record.streams["open"].counts() == {200: 25}
    assert record.streams["left"].counts() == {LEFT: 25}
    assert record.streams["closed early"].counts() == {LEFT: 5}
    assert record.streams["closed"].counts().keys() == {200}
    assert 0 < record.cpu_share <= 1.1
    assert len(record.late_s) == sum(map(len, record.streams.values()))


def test_bodies_larger_than_a_sockets_buffer_are_sent_whole():
    """As large as a bulk request's; the server counts them."""
    received = []

    def count(connection):
        head = b""
        while b"\r\n\r\n" not in head:
            head += connection.recv(1000)
        got = len(head.partition(b"\r\n\r\n")[2])
        while got < 5_000_000:
            got += len(connection.recv(100_000))
        received.append(got)
        connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + b"10000\r\n" + bytes(65536) + b"\r\n0\r\n\r\n")

    with listening(count) as address:
        body = request_bytes("POST", "/", body=bytes(5_000_000))
        record = LoadGenerator(address, [Stream(name="bulk", requests=[body], callers=1, count=1)]).run()
    assert received == [5_000_000]
    assert record.streams["bulk"].counts() == {200: 1}


def test_a_connection_that_ends_instead_of_an_answer_is_lost_and_its_caller_goes_on():
    def hang_up(connection):
        connection.recv(1000)

    with listening(hang_up) as address:
        record = LoadGenerator(address, [Stream(name="closed", requests=REQUESTS, callers=3, count=30)]).run()
    assert record.streams["closed"].counts() == {LOST: 30}
    assert len(list(record.streams["closed"].unanswered())) == 30


def test_a_server_that_closes_after_each_answer_is_connected_to_again():
    def answer_once(connection):
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}")

    with listening(answer_once) as address:
        streams = [
            Stream(name="closed", requests=REQUESTS, callers=2, count=20),
            Stream(name="open", requests=REQUESTS, pace=Pace(rate=100, seconds=0.2, even=True)),
        ]
        record = LoadGenerator(address, streams).run()
    assert Counter(record.streams["closed"].status) == {200: 20}
    assert Counter(record.streams["open"].status) == {200: 20}


def test_what_is_never_answered_ends_the_run_all_the_same():
    def wait(connection):
        connection.recv(1000)
        time.sleep(5)

    with listening(wait) as address:
        pace = Pace(rate=20, seconds=0.2, even=True)
        stream = Stream(name="open", requests=REQUESTS, pace=pace, connections=2, most_connections=2)
        record = LoadGenerator(address, [stream], answer_limit_s=0.3).run()
    assert record.streams["open"].counts() == {UNANSWERED: 4}
    assert record.wall_seconds < 4


def test_where_nobody_listens_callers_end():
    """A server that goes away under load: what comes then finds no one, and the generator does not spin."""
    ready = threading.Event()

    def answer_and_go(connection):
        while connection.recv(1000):
            connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
            if ready.is_set():
                return

    with listening(answer_and_go) as address:
        stop = threading.Timer(0.2, ready.set)
        stop.start()
        result = []
        generator = LoadGenerator(address, [Stream(name="closed", requests=REQUESTS, callers=1, seconds=30)])
        thread = threading.Thread(target=lambda: result.append(generator.run()))
        thread.start()
        time.sleep(0.05)
    thread.join(20)
    (record,) = result
    counts = record.streams["closed"].counts()
    assert counts.pop(UNCONNECTED) == 1
    assert counts.keys() <= {200, LOST}
    assert record.wall_seconds < 15


def test_a_start_without_a_server_is_an_error():
    with pytest.raises(EngineError, match="no connection to .* can be made"):
        load(("127.0.0.1", free_port()), [Stream(name="closed", requests=REQUESTS, callers=1, count=1)])


def test_a_unix_socket(tmp_path):
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve():
            connection, _ = listener.accept()
            with connection:
                while connection.recv(1000):
                    connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        record = load(path, [Stream(name="closed", requests=REQUESTS, callers=1, count=5)])
    assert record.streams["closed"].counts() == {200: 5}


def test_a_server_that_ends_before_it_is_ready_says_why(tmp_path):
    program = tmp_path / "program.py"
    program.write_text("raise SystemExit('no model')\n")
    with (
        pytest.raises(EngineError, match="ended with exit code 1 before it was ready: no model"),
        server_process([sys.executable, str(program)], free_port()),
    ):
        pass


@pytest.mark.timing
@pytest.mark.slow
def test_the_generator_is_not_the_bottleneck(quick):
    """Half of what is sent takes it less than a fifth of a millisecond of CPU time; measured: 45 us, twice that beside other programs."""
    stream = Stream(name="open", requests=REQUESTS, pace=Pace(rate=2000, seconds=3), connections=64)
    record = load(quick, [stream])
    assert record.streams["open"].counts().keys() == {200}
    assert record.cpu_seconds / len(record.streams["open"]) < 0.0002
    assert statistics.median(record.late_s) < 0.001


def test_load_is_sent_again_where_the_machine_stood_still(quick):
    """The generator is stopped for a while, as a halted machine would be, the first time only."""
    sent, stopped = [], []

    @contextmanager
    def once_stopped(*given, **options):
        with running_load(*given, **options) as running:
            if not stopped:
                pid = running._child._process.pid
                stopped.append(pid)
                time.sleep(0.1)  # it is on its way
                os.kill(pid, signal.SIGSTOP)
                time.sleep(1.3)
                os.kill(pid, signal.SIGCONT)
            sent.append(running)
            yield running

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_process, "running_load", once_stopped)
        record = load(quick, [Stream(name="open", requests=REQUESTS, pace=Pace(rate=50, seconds=1.5, even=True))])
    assert len(sent) == 2
    assert not record.stood_still
    assert record.streams["open"].counts() == {200: 75}


def test_a_document_that_is_no_load_is_an_error_with_its_reason():
    with child_process("cls_runtime.bench.load_process") as child:
        child.say(json.loads('{"streams": []}'))
        with pytest.raises(EngineError, match="KeyError: 'address'"):
            child.answer()
