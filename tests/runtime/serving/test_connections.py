"""What arrives on a socket: broken, slow, too large, too early, in pieces; it costs its own connection and no other."""

import asyncio
import contextlib
import json
import socket
import threading
import time

import pytest
from live_server import Client, LiveServer, clients, request, until
from living_objects import living

from cls_runtime import Encoder
from cls_runtime.serving import server as server_module
from cls_runtime.serving.connection import Connection
from cls_runtime.serving.limits import Limits

LIMITS = Limits(head_s=0.4, idle_s=1.0, linger_s=0.4, discard_bytes=2**16, pipelined=4, unread_s=0.4)
EMBEDDINGS = "/v1/embeddings"
BODY = json.dumps({"input": "the cat sleeps", "encoding_format": "base64"}).encode()


@pytest.fixture(scope="module")
def server(bundle):
    """With short times, so that a test sees them pass."""
    patch = pytest.MonkeyPatch()
    patch.setattr(server_module, "_LOOK_SECONDS", 0.05)
    patch.setattr(server_module, "_QUIET_SECONDS", 0.05)
    with Encoder.load(bundle, threads=2) as encoder, LiveServer(encoder, limits=LIMITS, max_body_bytes=2**20, max_inputs=10**5) as server:
        yield server
    patch.undo()


@pytest.fixture(autouse=True)
def _others_are_answered(server, capfd):
    """After whatever a test does, the server answers, has no request left, and has printed nothing."""
    yield
    with server.client() as client:
        assert client.post(EMBEDDINGS, BODY).answer().status == 200
    until(lambda: not server.service.flights)
    assert capfd.readouterr().err == ""
    assert not [line for line in server.log if "failed" in line]


def is_refused(answer, status):
    """An answer in JSON with OpenAI's form of an error, and an id."""
    assert answer.status == status
    assert answer.json["error"]["message"] == answer.json["message"]
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-request-id"]
    return answer.json["message"]


# Broken


@pytest.mark.parametrize(
    "data",
    [
        b"HELLO\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /live HTTP/1.1\r\nhost here\r\n\r\n",
        b"GET /live HTTP/9.9\r\n\r\n",
        b"GET /li\x00ve HTTP/1.1\r\nhost: here\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: ten\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: -1\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/embeddings HTTP/1.1\r\nhost: here\r\ncontent-length: 99999999999999999999999\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT :::::: HTTP/1.1\r\nhost: here\r\n\r\n",
    ],
)
def test_what_is_no_http_is_400_in_json(server, data):
    with server.client() as client:
        answer = client.send(data).answer()
        assert "HTTP" in is_refused(answer, 400)
        assert answer.closes
        assert client.is_closed()


def test_a_broken_chunk_is_its_requests_400(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "transfer-encoding: chunked") + b'5\r\n{"inp\r\n')
        time.sleep(0.05)
        answer = client.send(b"not a length\r\n").answer()
        is_refused(answer, 400)
        assert answer.closes
        assert client.is_closed()


def test_what_comes_before_what_is_broken_is_answered(server):
    with server.client() as client:
        client.post(EMBEDDINGS, BODY).post(EMBEDDINGS, BODY).send(b"\r\n\r\nand then something else\r\n\r\n")
        assert client.answer().status == 200
        assert client.answer().status == 200
        assert client.is_closed()


def test_a_body_that_is_longer_than_its_length_does_not_harm_the_answer(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, f"content-length: {len(BODY)}") + BODY + b"}}}}")
        assert client.answer().status == 200
        assert client.is_closed()


def test_a_body_that_is_cut_off_costs_nothing(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "content-length: 1000") + BODY)
        until(lambda: len(server.service.flights) == 1)
    until(lambda: not server.service.flights)
    assert "status=499" in server.log[-1]
    assert "cancelled=disconnect" in server.log[-1]


# Too large


@pytest.mark.parametrize(
    "head",
    [
        request("GET", f"/live?{'a' * 70_000}"),
        request("GET", "/live", f"x: {'a' * 70_000}"),
        request("GET", "/live", *(f"x{number}: 1" for number in range(2_000))),
    ],
    ids=["line", "header", "headers"],
)
def test_a_head_of_more_than_its_limit_is_431(server, head):
    with server.client() as client:
        answer = client.send(head).answer()
        assert "65,536" in is_refused(answer, 431)
        assert client.is_closed()


def test_a_header_without_an_end_is_431(server):
    with server.client() as client:
        client.send(b"GET /live HTTP/1.1\r\nx: ")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.send(b"a" * 10_000)
                time.sleep(0.001)
        is_refused(client.answer(), 431)


def test_a_head_just_below_its_limit_is_answered(server):
    with server.client() as client:
        assert client.send(request("GET", "/live", f"x: {'a' * 65_000}")).answer().status == 200


def test_a_large_body_that_is_announced_is_413_before_it_is_sent_and_the_client_reads_that(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "content-length: 3000000"))
        answer = client.answer()
        is_refused(answer, 413)
        assert answer.closes
        with contextlib.suppress(ConnectionError):
            client.send(b"a" * 10_000)


def test_a_large_body_that_is_sent_without_waiting_is_413_and_the_client_reads_that(server):
    with server.client() as client:
        with contextlib.suppress(ConnectionError):
            client.send(request("POST", EMBEDDINGS, "content-length: 1100000") + b"a" * 60_000)
        is_refused(client.answer(), 413)


def test_a_chunked_body_over_the_limit_is_413(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "transfer-encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(40):
                client.send(b"8000\r\n" + b"a" * 0x8000 + b"\r\n")
        is_refused(client.answer(), 413)


@pytest.mark.parametrize("size", [20_000, 60_000])
def test_a_small_body_that_is_refused_leaves_the_connection_usable(server, size):
    with server.client() as client:
        client.send(request("POST", "/nothing/here", f"content-length: {size}"))
        answer = client.answer()
        assert answer.status == 404
        assert not answer.closes
        client.send(b"a" * size)
        assert client.post(EMBEDDINGS, BODY).answer().status == 200


def test_a_refused_body_whose_rest_does_not_come_closes_the_connection(server):
    with server.client() as client:
        client.send(request("POST", "/nothing/here", "content-length: 1000"))
        assert client.answer().status == 404
        assert client.is_closed()


# Expect: 100-continue


def test_a_client_that_waits_is_told_to_go_on(server):
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "expect: 100-continue", f"content-length: {len(BODY)}"))
        assert client.answer().status == 100
        assert client.send(BODY).answer().status == 200


@pytest.mark.parametrize(("path", "size", "status"), [(EMBEDDINGS, 3_000_000, 413), ("/nothing", 100, 404)])
def test_a_client_that_waits_with_what_is_refused_is_told_so_in_place_of_that(server, path, size, status):
    with server.client() as client:
        answer = client.send(request("POST", path, "expect: 100-continue", f"content-length: {size}")).answer()
        assert answer.status == status
        assert answer.closes  # or the next request would be taken for the body that it does not send


# Other ways to ask


def test_http_1_0_is_answered_and_closed(server):
    with server.client() as client:
        answer = client.send(b"GET /live HTTP/1.0\r\n\r\n").answer()
        assert answer.status == 200
        assert client.is_closed()


def test_head_has_the_answers_head(server):
    with server.client() as client:
        answer = client.send(request("HEAD", "/live")).answer(head=True)
        assert (answer.status, answer.headers["content-length"]) == (200, "15")
        assert client.send(request("GET", "/live")).answer().json == {"status": "ok"}


def test_a_whole_url_in_the_request_line(server):
    with server.client() as client:
        assert client.send(request("GET", "http://here/live")).answer().status == 200
        assert client.send(request("OPTIONS", "*")).answer().status in (400, 404)


def test_answers_have_a_date(server):
    with server.client() as client:
        assert client.send(request("GET", "/live")).answer().headers["date"].endswith("GMT")


@pytest.mark.parametrize("piece", [1, 7])
def test_a_request_in_pieces(server, piece):
    data = request("POST", EMBEDDINGS, f"content-length: {len(BODY)}") + BODY
    with server.client() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for start in range(0, len(data), piece):
            client.send(data[start : start + piece])
        assert client.answer().status == 200


def test_a_chunked_body(server):
    chunks = b"".join(b"%x;extension=1\r\n%c\r\n" % (1, byte) for byte in BODY)
    with server.client() as client:
        client.send(request("POST", EMBEDDINGS, "transfer-encoding: chunked") + chunks + b"0\r\ntrailer: 1\r\n\r\n")
        assert client.answer().status == 200
        assert client.send(request("GET", "/live")).answer().status == 200


@pytest.mark.parametrize("framing", ["content-length", "chunked"])
def test_a_request_that_asks_for_http_2_is_answered_in_http_1_with_its_body(server, framing):
    """As Java's HttpClient sends its first request to a server without TLS."""
    asks = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA")
    if framing == "chunked":
        data = request("POST", EMBEDDINGS, *asks, "transfer-encoding: chunked") + b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
    else:
        data = request("POST", EMBEDDINGS, *asks, f"content-length: {len(BODY)}") + BODY
    with server.client() as client:
        for _ in range(2):
            answer = client.send(data + request("GET", "/live")).answer()
            assert answer.status == 200
            assert answer.json["data"]
            assert client.answer().json == {"status": "ok"}
    with server.client() as client:
        for part in (data[:-20], data[-20:-3], data[-3:]):
            client.send(part)
            time.sleep(0.02)
        assert client.answer().status == 200


def test_a_websocket_is_not_opened(server):
    asks = ("connection: upgrade", "upgrade: websocket", "sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==", "sec-websocket-version: 13")
    with server.client() as client:
        assert client.send(request("GET", EMBEDDINGS, *asks)).answer().status == 405
        assert client.send(request("GET", "/live", *asks)).answer().status == 200
        assert client.send(request("GET", "/live")).answer().status == 200


def test_pipelined_requests_are_answered_in_their_order(server):
    with server.client() as client:
        client.send(b"".join(request("GET", f"/nothing/{number}") for number in range(LIMITS.pipelined)))
        for number in range(LIMITS.pipelined):
            assert f"/nothing/{number}" in client.answer().json["message"]


def test_too_many_pipelined_requests_close_the_connection_behind_those_that_were_taken(server):
    with server.client() as client:
        client.send(request("GET", "/live") * 100)
        answered = 0
        with contextlib.suppress(EOFError):
            while True:
                assert client.answer().status == 200
                answered += 1
        assert answered == LIMITS.pipelined + 1


# Slow


def test_a_head_that_takes_too_long_is_408(server):
    with server.client() as client:
        began = time.monotonic()
        client.send(b"GET /live HTTP/1.1\r\n")
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                client.send(b"x: 1\r\n")
                if time.monotonic() - began > 3 * LIMITS.head_s:
                    break
                time.sleep(0.05)
        is_refused(client.answer(), 408)


def test_many_slow_clients_hinder_nobody(server):
    with clients(server, 50) as slow:
        for client in slow:
            client.send(b"POST /v1/embeddings HTTP/1.1\r\nx:")
        with server.client() as client:
            began = time.monotonic()
            assert client.post(EMBEDDINGS, BODY).answer().status == 200
            assert time.monotonic() - began < 5
    until(lambda: len(server.server._connections.connections) <= 1)


def test_a_connection_that_never_asks_is_closed(server):
    with server.client() as client:
        began = time.monotonic()
        client.send(b"\r\n\r\n")
        assert client.is_closed()
        assert LIMITS.idle_s / 2 < time.monotonic() - began


def test_a_connection_in_use_is_kept_and_then_closed(server):
    with server.client() as client:
        for _ in range(5):
            assert client.send(request("GET", "/live")).answer().status == 200
            time.sleep(LIMITS.idle_s / 4)
        assert client.is_closed()


def test_a_client_that_does_not_read_its_answer_is_left(server):
    """The answer is larger than what the system keeps for the client."""
    with server.client() as client:
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.post(EMBEDDINGS, {"input": ["the cat"] * 90_000})
        until(lambda: server.server._connections.unanswered)
        until(lambda: not server.server._connections.connections)


# Many


def test_where_there_is_no_room_the_connection_that_is_idle_longest_makes_some(watched):
    with LiveServer(watched, limits=Limits(connections=32, young_s=0.0)) as server, clients(server, 32) as idle:
        until(lambda: len(server.server._connections.connections) == 32)
        assert idle[-1].send(request("GET", "/live")).answer().status == 200
        with server.client() as client:
            assert client.send(request("GET", "/live")).answer().status == 200
        assert idle[0].is_closed()
        assert idle[-1].send(request("GET", "/live")).answer().status == 200


def test_nobody_makes_room_for_the_last_one_that_has_some(watched, monkeypatch):
    """The next client connects in the very moment in which a connection is made, and is being made still."""
    made = Connection.connection_made
    followers = []

    def and_the_next_one_connects(connection, transport):
        made(connection, transport)
        if len(followers) < 3:
            followers.append(server.client())

    monkeypatch.setattr(Connection, "connection_made", and_the_next_one_connects)
    with LiveServer(watched, limits=Limits(connections=4, young_s=0.0)) as server, server.client() as first:
        until(lambda: len(followers) == 3)
        for client in (first, *followers):
            assert client.send(request("GET", "/live")).answer().status == 200
    for client in followers:
        client.socket.close()


def test_resets_leave_nothing_behind(server):
    """uvicorn's own connections leave a timer each, which holds the connection for as long as it may be kept."""
    for number in range(50):
        client = server.client()
        client.post(EMBEDDINGS, BODY)
        if number % 2:
            client.answer()
        client.reset()
    until(lambda: not server.server._connections.connections)

    def timers():
        return len([handle for handle in server.loop._scheduled if not handle.cancelled()])

    count = asyncio.run_coroutine_threadsafe(_in_loop(timers), server.loop).result()
    assert count < 5
    own = server.server._connections
    until(lambda: not [connection for connection in living(Connection) if connection.server_state is own])


async def _in_loop(function):
    return function()


def test_many_at_once(server):
    """Mixed clients: each gets its own answer."""
    failures = []

    def ask(number):
        try:
            with server.client() as client:
                for _ in range(5):
                    if number % 4 == 0:
                        client.post(EMBEDDINGS, BODY)
                        assert client.answer().status == 200
                    elif number % 4 == 1:
                        client.post(EMBEDDINGS, b"{")
                        assert client.answer().status == 400
                    elif number % 4 == 2:
                        client.send(request("GET", f"/nothing/{number}"))
                        assert f"/nothing/{number}" in client.answer().json["message"]
                    else:
                        Client(server.address).send(request("POST", EMBEDDINGS, "content-length: 99")).reset()
        except BaseException as error:  # noqa: BLE001  for the test's thread
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
