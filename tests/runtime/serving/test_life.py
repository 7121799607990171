"""A server from its first line to its last: what is answered when engines fail or hang, clients leave, time passes, and it has to end."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from live_server import Client, LiveServer, clients, request, until

from cls_runtime import Encoder, UsageError
from cls_runtime.errors import EngineError
from cls_runtime.serving import server as server_module
from cls_runtime.serving.limits import Limits
from cls_runtime.serving.listening import Acceptor, check_place
from cls_runtime.serving.options import ServeOptions

EMBEDDINGS = "/v1/embeddings"
BODY = json.dumps({"input": "the cat sleeps", "encoding_format": "base64"}).encode()


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(server_module, "_QUIET_SECONDS", 0.1)


class Held:
    """Holds an engine up until it is let go."""

    def __init__(self, engine):
        self.entered = threading.Event()
        self.runs = 0
        self.go = threading.Event()
        engine.around = self

    def __call__(self, run, batch, outputs):
        self.runs += 1
        self.entered.set()
        assert self.go.wait(60)
        return run(batch, outputs)

    def busy(self, server):
        """Requests that every worker of the engine is busy with; what comes now waits."""
        holding = [server.client() for _ in range(2)]
        for number, client in enumerate(holding):
            client.post(EMBEDDINGS, {"input": f"the {number}"})
            until(lambda: self.runs > number)  # noqa: B023  called at once
        return holding


@pytest.fixture
def held(watched_engine):
    """The engine of `watched`, which computes nothing until the test lets it."""
    held = Held(watched_engine)
    yield held
    held.go.set()


# Errors of the engine


@pytest.mark.parametrize("failure", [ValueError("the cat is in this message"), EngineError("broken"), MemoryError()])
def test_an_engine_that_fails_fails_that_request_alone(watched, watched_engine, failure, capfd):
    def around(run, batch, outputs):
        if (batch.lengths == 3).any():  # a text of one token
            raise failure
        return run(batch, outputs)

    watched_engine.around = around
    with LiveServer(watched) as server, clients(server, 8) as many:
        for number, client in enumerate(many):
            client.post(EMBEDDINGS, {"input": "the" if number == 3 else "the cat sleeps"})
        statuses = [client.answer().status for client in many]
        assert statuses == [500 if number == 3 else 200 for number in range(8)]
        (line,) = [line for line in server.log if "failed:" in line]
        assert type(failure).__name__ in line
        assert "the cat" not in line
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_vector_that_is_none_is_that_requests_500(watched, watched_engine, value):
    def around(run, batch, outputs):
        rows = run(batch, outputs)
        for row in rows:
            row[batch.lengths == 3] = value
        return rows

    watched_engine.around = around
    with LiveServer(watched) as server, clients(server, 4) as many:
        for number, client in enumerate(many):
            client.post(EMBEDDINGS, {"input": "the" if number == 1 else "the cat sleeps"})
        answers = [client.answer() for client in many]
        assert [answer.status for answer in answers] == [200, 500, 200, 200]
        assert "vector" in answers[1].json["message"]


def test_an_engine_that_hangs_makes_the_server_unready_and_not_dead(watched, held):
    with LiveServer(watched, stalled_s=0.3, deadline_s=1.0) as server, server.client() as stuck, server.client() as probe:
        stuck.post(EMBEDDINGS, BODY)
        assert held.entered.wait(60)
        assert probe.send(request("GET", "/ready")).answer().status == 200
        until(lambda: probe.send(request("GET", "/ready")).answer().status == 503)
        answer = probe.send(request("GET", "/health")).answer()
        assert answer.headers["retry-after"]
        assert "no batch has finished" in answer.body.decode()
        refused = probe.post(EMBEDDINGS, BODY).answer()  # at once, and not at its deadline
        assert refused.status == 503
        assert "no batch has finished" in refused.json["message"]
        assert refused.headers["retry-after"] == "30"
        assert probe.send(request("GET", "/live")).answer().status == 200
        assert stuck.answer().status == 503  # its deadline
        held.go.set()
        until(lambda: probe.send(request("GET", "/ready")).answer().status == 200)


# Deadlines, and clients that leave


def test_a_request_past_its_deadline_is_503_and_is_not_computed(watched, watched_engine, held):
    with LiveServer(watched, deadline_s=0.3) as server, clients(server, 4) as many:
        for client in many:
            client.post(EMBEDDINGS, BODY)
        assert held.entered.wait(60)
        began = time.monotonic()
        for client in many:
            answer = client.answer()
            assert answer.status == 503
            assert answer.json["error"]["code"] == "deadline_exceeded"
        assert time.monotonic() - began < 5
        until(lambda: watched.queue.texts == 0)


def test_a_body_that_takes_longer_than_the_deadline_is_503(watched):
    with LiveServer(watched, deadline_s=0.3) as server, server.client() as client:
        client.send(request("POST", EMBEDDINGS, f"content-length: {len(BODY)}") + BODY[:5])
        assert client.answer().status == 503
        assert client.is_closed()


@pytest.mark.parametrize("leave", ["close", "reset"])
def test_a_client_that_leaves_withdraws_what_waits(watched, held, leave):
    with LiveServer(watched) as server:
        holding = held.busy(server)
        leaving = [server.client() for _ in range(8)]
        for number, client in enumerate(leaving):
            client.post(EMBEDDINGS, {"input": [f"the dog {number} {place}" for place in range(50)]})
        until(lambda: watched.queue.texts == 400)
        for client in leaving:
            client.reset() if leave == "reset" else client.socket.close()
        until(lambda: watched.queue.texts == 0)
        until(lambda: sum("cancelled=disconnect" in line for line in server.log) == 8)
        held.go.set()
        for client in holding:
            with client:
                assert client.answer().status == 200


@pytest.mark.timing
def test_it_takes_at_most_100_ms(watched, held):
    with LiveServer(watched) as server:
        holding = held.busy(server)
        took = []
        for number in range(10):
            with server.client() as client:
                client.post(EMBEDDINGS, {"input": [f"the dog {number} {place}" for place in range(50)]})
                until(lambda: watched.queue.texts)
            began = time.monotonic()
            while watched.queue.texts:
                time.sleep(0.001)
            took.append(time.monotonic() - began)
        assert max(took) <= 0.1
        held.go.set()
        for client in holding:
            client.socket.close()


# The end


def test_what_is_under_way_is_answered_before_the_end(watched, held):
    with LiveServer(watched) as server, clients(server, 4) as many, server.client() as idle:
        for client in many:
            client.post(EMBEDDINGS, BODY)
        assert held.entered.wait(60)
        assert idle.send(request("GET", "/ready")).answer().status == 200
        server.end()
        answer = idle.send(request("GET", "/ready")).answer()
        assert answer.status == 503
        assert answer.headers["retry-after"]
        assert answer.closes
        held.go.set()
        for client in many:
            answer = client.answer()
            assert answer.status == 200
            assert answer.closes
            assert client.is_closed()
        server.wait()
        assert server.log[-1].endswith("ended: every request was answered")


def test_requests_on_connections_that_are_open_are_answered_while_it_ends(watched, held):
    with LiveServer(watched) as server, clients(server, 20) as many, server.client() as keeps:
        for client in many:
            assert client.send(request("GET", "/live")).answer().status == 200
        keeps.post(EMBEDDINGS, BODY)
        assert held.entered.wait(60)
        server.end()
        until(lambda: server.service.draining)
        for client in many:
            client.post(EMBEDDINGS, BODY)
        held.go.set()
        for client in (keeps, *many):
            answer = client.answer()
            assert (answer.status, answer.closes) == (200, True)


def test_connections_that_wait_to_be_accepted_are_answered(watched):
    """They are in the listener's queue when the end begins, their requests with them."""
    with LiveServer(watched) as server:
        address = server.address
        stopped = threading.Event()
        server.loop.call_soon_threadsafe(stopped.wait, 60)  # nothing is accepted meanwhile
        waiting = [Client(address).post(EMBEDDINGS, BODY) for _ in range(100)]
        server.end()
        stopped.set()
        for client in waiting:
            with client:
                assert client.answer().status == 200
        server.wait()
        with pytest.raises(ConnectionRefusedError):
            Client(address)


@pytest.mark.skipif(sys.platform != "linux", reason="the filter is Linux's")
def test_nobody_is_let_in_only_to_be_reset(watched, monkeypatch):
    """Whoever comes between the last `accept` and `close` is not connected at all, and may try another server."""
    late = []
    taken = Acceptor._take

    def take(acceptor, listener):
        if taken(acceptor, listener):
            return True
        if server.service.draining and not late:
            late.append(socket.socket())
            late[0].settimeout(0.2)
            with contextlib.suppress(TimeoutError):
                late[0].connect(listener.getsockname())
                late.append("connected")
        return False

    with LiveServer(watched) as server:
        monkeypatch.setattr(Acceptor, "_take", take)
        server.end()
        server.wait()
    late[0].close()
    assert late[1:] == []


def test_it_listens_for_the_drain_delay(watched):
    with LiveServer(watched, drain_delay_s=0.5) as server:
        server.end()
        until(lambda: server.service.draining)
        with server.client() as client:
            assert client.post(EMBEDDINGS, BODY).answer().status == 200
        with server.client() as client:
            assert client.send(request("GET", "/ready")).answer().status == 503


def test_what_does_not_end_in_time_is_503_and_the_end_comes(watched, held):
    with LiveServer(watched, shutdown_timeout_s=0.3) as server, clients(server, 3) as many:
        for client in many:
            client.post(EMBEDDINGS, BODY)
        assert held.entered.wait(60)
        with server.client() as half:
            half.send(request("POST", EMBEDDINGS, "content-length: 100") + b"{")
            until(lambda: len(server.service.flights) == 4)
            server.end()
            for client in (*many, half):
                answer = client.answer()
                assert answer.status == 503
                assert answer.headers["retry-after"]
                assert "shutting down" in answer.json["message"]
        server.wait()
        assert "4 requests were cancelled" in server.log[-1]
        held.go.set()


def test_idle_and_half_open_connections_do_not_hold_up_the_end(watched):
    with LiveServer(watched) as server, clients(server, 5) as idle, server.client() as slow:
        slow.send(b"GET /live HTTP/1.1\r\n")
        until(lambda: len(server.server._connections.connections) == 6)
        began = time.monotonic()
        server.end()
        server.wait()
        assert time.monotonic() - began < 10
        assert all(client.is_closed() for client in idle)
        assert slow.answer().status == 503


HANGS = """
import os, sys, threading
from pathlib import Path
from cls_runtime import Bundle, Encoder, EncoderOptions
from cls_runtime.serving import server
from cls_runtime.serving.models import ServedModel, ServedModels
from cls_runtime.serving.options import ServeOptions
from watched_engine import WatchedEngine

bundle = Bundle.open(Path(sys.argv[1]))
engine = WatchedEngine(bundle, threads=1)
engine.around = lambda *_: threading.Event().wait()
models = ServedModels([ServedModel(("tiny",), Encoder.of(bundle, engine, EncoderOptions(variant="fp32")), 1)])
ServedModels.load = lambda options: models
server._CLOSE_SECONDS = 0.2
sys.exit(server.serve(ServeOptions(bundles=("tiny",), uds=Path(sys.argv[2]), shutdown_timeout_s=0.2)))
"""


def test_an_engine_that_hangs_does_not_hold_up_the_end_of_the_process(bundle, tmp_path):
    place = tmp_path / "s"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HANGS, str(bundle), str(place)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        until(place.exists)
        until(lambda: _takes_connections(place))
        with Client(str(place)) as client:
            client.post(EMBEDDINGS, BODY)
            assert client.send(request("GET", "/live"))
            time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert client.answer().status == 503
        _, log = process.communicate(timeout=60)
        assert process.returncode == 0, log
        assert "1 requests were cancelled" in log
        assert "the process exits without waiting for it" in log
        assert not place.exists()


def _takes_connections(place):
    with contextlib.suppress(ConnectionRefusedError), Client(str(place)):
        return True
    return False


@pytest.mark.slow
def test_no_request_that_was_accepted_is_lost_in_twenty_ends_under_load(bundle):
    """Each client asks on and on, on one connection or a new one each time, until it is refused a connection."""
    assert [lost for _ in range(20) for lost in _lost_in_an_end_under_load(bundle)] == []


def _lost_in_an_end_under_load(bundle):
    lost, answered = [], []
    with Encoder.load(bundle, threads=2) as encoder, LiveServer(encoder) as server:
        threads = [threading.Thread(target=_ask_until_refused, args=(server.address, number, answered, lost)) for number in range(8)]
        for thread in threads:
            thread.start()
        until(lambda: len(answered) > 40)
        server.end()
        for thread in threads:
            thread.join()
        server.wait()
    return lost


def _ask_until_refused(address, number, answered, lost):
    while True:
        try:
            client = Client(address)
        except ConnectionRefusedError:
            return
        with client:
            for _ in range(5 if number % 2 else 1):
                try:
                    answer = client.post(EMBEDDINGS, BODY).answer()
                except (ConnectionError, EOFError) as error:
                    lost.append(error)
                    return
                if answer.status != 200:
                    lost.append(answer)
                answered.append(answer.status)
                if answer.closes:
                    break


# Where it listens


def test_a_unix_socket_is_made_and_removed(watched, tmp_path):
    path = tmp_path / "serve.sock"
    with LiveServer(watched, uds=path) as server, server.client() as client:
        assert server.log[-1].endswith(f"listening on unix:{path}")
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert client.post(EMBEDDINGS, BODY).answer().status == 200
    assert not path.exists()


def test_a_stale_unix_socket_is_replaced_and_anothers_is_not_removed(bundle, watched, tmp_path):
    path = tmp_path / "serve.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with LiveServer(watched, uds=path) as server:
        with server.client() as client:
            assert client.send(request("GET", "/live")).answer().status == 200
        with pytest.raises(UsageError, match="another server is listening"):
            check_place(ServeOptions(bundles=("a",), uds=path))
        path.unlink()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(path))
            server.end()
            server.wait()
            assert path.exists()


@pytest.mark.parametrize("kind", ["file", "folder", "link", "no folder", "too long"])
def test_what_is_no_place_for_a_unix_socket(tmp_path, kind):
    path = tmp_path / "there"
    if kind == "file":
        path.write_text("mine")
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "no folder":
        path = path / "in" / "it"
    else:
        path = tmp_path / ("a" * 200)
    with pytest.raises(UsageError, match="--uds"):
        check_place(ServeOptions(bundles=("a",), uds=path))
    assert kind != "file" or path.read_text() == "mine"


def test_a_port_that_is_taken_is_told_before_anything_is_loaded():
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UsageError, match=f"127.0.0.1 port {port}: somebody else listens"):
            check_place(ServeOptions(bundles=("a",), port=port))


@pytest.mark.parametrize("host", ["nowhere.invalid", "192.0.2.1", "a" * 300, ".."])
def test_what_is_no_address_of_this_machine(host):
    with pytest.raises(UsageError, match=r"--host|cannot listen"):
        check_place(ServeOptions(bundles=("a",), host=host))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_hosts(watched, host):
    with LiveServer(watched, host=host) as server, server.client() as client:
        assert client.send(request("GET", "/live")).answer().status == 200


# Many


@pytest.mark.slow
def test_4096_idle_connections_and_1000_active_ones(bundle):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * (4096 + 1000) + 200  # the clients are here too
    if hard != resource.RLIM_INFINITY and hard < needed:
        pytest.skip(f"{needed} open files are needed, {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))
    try:
        with Encoder.load(bundle, threads=2) as encoder, LiveServer(encoder) as server, clients(server, 4096) as idle:
            with clients(server, 1000) as active:
                for _ in range(3):
                    for client in active:
                        client.post(EMBEDDINGS, BODY)
                    assert {client.answer().status for client in active} == {200}
            assert {client.send(request("GET", "/live")).answer().status for client in idle} == {200}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files in /proc")
def test_where_no_file_can_be_opened_it_waits_and_goes_on(watched):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with LiveServer(watched, limits=Limits(connections=10_000)) as server, server.client() as client:
        assert client.send(request("GET", "/live")).answer().status == 200
        others = [socket.socket() for _ in range(3)]
        limit = max(int(path.name) for path in Path("/proc/self/fd").iterdir()) + 1
        spare = []
        while True:  # every number below the limit is taken
            spare.append(os.open(os.devnull, os.O_RDONLY))
            if spare[-1] >= limit:
                os.close(spare.pop())
                break
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
            for other in others:
                other.connect(server.address)
            until(lambda: any("no more connections" in line for line in server.log))
            began = time.process_time()
            time.sleep(0.5)
            assert time.process_time() - began < 0.25  # it does not try on and on
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            for number in spare:
                os.close(number)
        for other in others:
            other.settimeout(60)
            other.sendall(request("GET", "/live"))
            assert b"200 OK" in other.recv(1000)
            other.close()
