"""While the queue is full, a request is refused by its connection alone, in the same words as by the application."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time

import pytest
from live_server import LiveServer, request

from cls_runtime import Encoder
from cls_runtime.serving.admission import Admission, Refusal
from cls_runtime.serving.limits import Limits

BODY = json.dumps({"input": "the cat sleeps"}).encode()
PATHS = ["/v1/embeddings", "/embed", "/v2/rerank", "/"]
# Of each request its own.
OWN = ("x-request-id", "server-timing", "date")


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    path = tmp_path_factory.mktemp("keys") / "keys"
    path.write_text("secret\n")
    return path


@pytest.fixture(scope="module")
def server(bundle, keys):
    with Encoder.load(bundle, threads=1) as encoder, LiveServer(encoder, api_key_file=keys) as server:
        yield server


@pytest.fixture
def full(server, monkeypatch):
    """Makes the queue full."""
    monkeypatch.setattr(Admission, "waits_s", lambda self, inputs, encoder=None: 7.5)
    monkeypatch.setattr(server.service.admission, "_looked", float("-inf"))


def post(path, body=BODY, *headers, key="secret"):
    return request("POST", path, f"authorization: Bearer {key}", f"content-length: {len(body)}", *headers) + body


def asked(server, *requests):
    """The answers on one connection."""
    with server.client() as client:
        return [client.send(data).answer() for data in requests]


def rejected(server):
    (answer,) = asked(server, request("GET", "/metrics"))
    return float(re.search(r'^cls_rejected_total\{reason="overloaded"\} (\S+)$', answer.body.decode(), re.MULTILINE)[1])


@pytest.mark.parametrize("path", PATHS)
def test_it_says_what_the_application_says(server, full, monkeypatch, path):
    (short,) = asked(server, post(path))
    with monkeypatch.context() as patch:
        patch.setattr(server.server._connections, "turning_away", None)
        (usual,) = asked(server, post(path))
    assert (short.status, short.json) == (usual.status, usual.json)
    assert short.status == 429
    without = [{name: value for name, value in answer.headers.items() if name not in OWN} for answer in (short, usual)]
    assert without[0] == without[1]
    assert set(short.headers) == set(usual.headers)


def test_the_connection_goes_on(server, full):
    answers = asked(server, post("/embed", BODY, "x-request-id: mine"), request("GET", "/live"), post("/embed"))
    assert [answer.status for answer in answers] == [429, 200, 429]
    assert answers[0].headers["x-request-id"] == "mine"


def test_several_at_once_are_answered_in_their_order(server, full):
    with server.client() as client:
        client.send(b"".join(post("/embed", BODY, f"x-request-id: {number}") for number in range(5)) + request("GET", "/live"))
        answers = [client.answer() for _ in range(6)]
    assert [answer.headers["x-request-id"] for answer in answers[:5]] == list("01234")
    assert [answer.status for answer in answers] == [429] * 5 + [200]


def test_a_body_in_pieces_is_passed_over(server, full):
    data = post("/embed", b"x" * 5000)
    with server.client() as client:
        for start in range(0, len(data), 700):
            client.send(data[start : start + 700])
        assert client.answer().status == 429
        assert client.send(post("/embed")).answer().status == 429


def test_a_client_that_closes_is_closed(server, full):
    with server.client() as client:
        answer = client.send(post("/embed", BODY, "connection: close")).answer()
        assert (answer.status, answer.headers["connection"]) == (429, "close")
        assert client.is_closed()


def test_a_wrong_key_is_not_told_how_full_it_is(server, full):
    assert [answer.status for answer in asked(server, post("/embed", key="other"), post("/embed"))] == [401, 429]


@pytest.mark.parametrize(
    ("data", "status"), [(post("/nowhere"), 404), (request("GET", "/embed"), 405), (post("/embed", b"x" * 2**17), 429)]
)
def test_all_else_goes_the_usual_way(server, full, data, status):
    assert asked(server, data)[0].status == status


def test_it_is_counted_and_logged(server, full):
    before, lines = rejected(server), len(server.log)
    (answer,) = asked(server, post("/embed", BODY, "x-request-id: counted"))
    assert answer.status == 429
    assert rejected(server) == before + 1
    assert any("id=counted" in line and "status=429" in line for line in server.log[lines:])


def test_there_is_no_look_at_every_request(server, monkeypatch):
    looks = []
    monkeypatch.setattr(Admission, "waits_s", lambda self, inputs, encoder=None: looks.append(inputs) or 7.5)
    monkeypatch.setattr(server.service.admission, "_looked", float("-inf"))
    seen = {server.service.admission.full for _ in range(100)}
    assert len(looks) < 50
    assert all(isinstance(refusal, Refusal) for refusal in seen)


def test_answers_that_nobody_takes_do_not_pile_up(server, full):
    """A client that only sends is read no further than its answers are taken, and its connection ends where it takes too long."""
    with server.client() as client:
        client.socket.settimeout(1.0)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        flood = memoryview(post("/v1/embeddings") * 60_000)
        sent = 0
        with contextlib.suppress(TimeoutError, ConnectionResetError):
            while sent < len(flood):
                sent += client.socket.send(flood[sent : sent + 2**16])
        waiting = max((one.transport.get_write_buffer_size() for one in list(server.server._connections.connections)), default=0)
        assert waiting < 2**20


def test_a_body_that_comes_late_on_an_old_connection_has_its_time(bundle, monkeypatch):
    monkeypatch.setattr(Admission, "waits_s", lambda self, inputs, encoder=None: 7.5)
    limits = Limits(linger_s=1.5)
    with Encoder.load(bundle, threads=1) as encoder, LiveServer(encoder, limits=limits) as server, server.client() as client:
        time.sleep(limits.linger_s + 0.3)
        client.send(request("POST", "/v1/embeddings", f"content-length: {len(BODY)}"))
        time.sleep(0.8)  # connections are looked at meanwhile
        assert client.send(BODY).answer().status == 429
