"""Ten thousand malformed requests: the server answers each in its protocol's form of an error, or closes the connection, and goes on.

Over real sockets, since half of what can be wrong is below ASGI: broken HTTP, bodies that end early, bytes that are no JSON.
"""

from __future__ import annotations

import contextlib
import json
import socket
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bundle_builder import build_bundle
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st
from json_mutations import ODD, mutated
from prometheus_client.parser import text_string_to_metric_families
from served import Running, running

from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.endpoint import Endpoint
from cls_runtime.serving.examples import EXAMPLES
from cls_runtime.serving.openapi import OpenAIError, TeiError, statuses_of
from cls_runtime.serving.protocols import openai

pytestmark = pytest.mark.slow

WITH_BODY = tuple(endpoint for endpoint in ENDPOINTS if endpoint.body is not None)
FIELDS = sorted(
    {name for body in EXAMPLES.values() for name in body} | {"model", "dimensions", "truncate", "encoding_format", "prompt_name"}
)
# What the HTTP layer says of a request before it is anybody's.
OF_HTTP = {400, 404, 405, 408, 413, 417, 431, 501, 505}
SILENCE_SECONDS = 0.1
COUNTS = {"json": 2000, "mutated": 5000, "bytes": 2000, "http": 1000}
assert sum(COUNTS.values()) >= 10_000


def many(count: int) -> settings:
    return settings(
        max_examples=count, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.explicit, Phase.generate, Phase.shrink]
    )


@dataclass(frozen=True)
class Got:
    status: int
    media_type: str
    body: bytes
    closes: bool


class Client:
    """A connection that is opened again whenever the server has closed it."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._socket: socket.socket | None = None

    def fresh(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def post(self, path: str, body: bytes) -> Got:
        """Sends a request that is HTTP, and reads its answer."""
        head = f"POST {path} HTTP/1.1\r\nHost: here\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        if self._socket is None:
            self._socket = self.fresh()
        self._socket.sendall(head + body)
        got = read_answer(self._socket)
        if got.closes:
            self.close()
        return got

    def send(self, data: bytes, *, reads: bool) -> bytes:
        """Sends anything on a connection of its own; gives what came back until the connection was closed or silent."""
        with self.fresh() as connection:
            with contextlib.suppress(ConnectionError):
                connection.sendall(data)
            return read_rest(connection) if reads else b""

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def read_answer(connection: socket.socket) -> Got:
    response = HTTPResponse(connection)
    response.begin()
    body = response.read()
    return Got(response.status, response.headers.get("content-type", ""), body, response.will_close)


def read_rest(connection: socket.socket) -> bytes:
    connection.settimeout(SILENCE_SECONDS)
    parts = []
    with contextlib.suppress(TimeoutError, ConnectionError):
        while part := connection.recv(2**16):
            parts.append(part)
    return b"".join(parts)


def answers_in(data: bytes) -> Iterator[Got]:
    """The answers that are in the bytes of a connection; what is left must be none."""
    while data:
        head, mark, rest = data.partition(b"\r\n\r\n")
        assert mark, data
        first, *lines = head.split(b"\r\n")
        version, status, *_ = first.split(b" ")
        assert version == b"HTTP/1.1", first
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        if status == b"100":
            data = rest
            continue
        length = int(headers[b"content-length"])
        assert len(rest) >= length, data
        yield Got(int(status), headers[b"content-type"].decode(), rest[:length], headers.get(b"connection") == b"close")
        data = rest[length:]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    folder = tmp_path_factory.mktemp("malformed")
    with running(build_bundle(folder / "tiny", prompts={"query": "cat "}), "--threads", "2", log=folder / "log") as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[Client]:
    port = urllib.parse.urlsplit(server.url).port
    assert port is not None
    client = Client(port)
    yield client
    client.close()


@pytest.fixture(autouse=True)
def goes_on(server: Running) -> Iterator[None]:
    """Before and after each test the same request has the same answer; in between the server has had no fault of its own."""
    before = server.ask("/v1/embeddings", {"input": "the cat sleeps"})
    assert before.status == 200
    yield
    assert server.process.poll() is None
    after = server.ask("/v1/embeddings", {"input": "the cat sleeps"})
    assert after.json == before.json
    families = list(text_string_to_metric_families(server.ask("/metrics").body.decode()))
    by_code = [sample for family in families for sample in family.samples if sample.name == "cls_requests_total"]
    assert [sample for sample in by_code if sample.labels["code"].startswith("5") and sample.value] == []
    assert next(sample.value for family in families for sample in family.samples if sample.name == "cls_requests_in_flight") == 1
    assert "Traceback" not in server.log.read_text(errors="replace")


def check(endpoint: Endpoint, got: Got) -> None:
    """An answer that the description has."""
    assert got.media_type == "application/json"
    answer = json.loads(got.body)
    if got.status == 200:
        return
    assert got.status in statuses_of(endpoint), (endpoint.path, got)
    assert 400 <= got.status < 500, got
    is_openai = endpoint.errors is openai.error
    assert msgspec.convert(answer, OpenAIError if is_openai else TeiError)
    assert "\n" not in (answer["message"] if is_openai else answer["error"])


scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(ODD)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
bodies = values | st.dictionaries(st.sampled_from(FIELDS), values, min_size=1, max_size=5)
endpoints = st.sampled_from(WITH_BODY)


def as_json(value: Any) -> bytes:
    """As Python writes it: NaN, Infinity and lone surrogates too."""
    return json.dumps(value).encode()


@many(COUNTS["json"])
@given(endpoints, bodies)
def test_json_of_any_shape(client, endpoint, body):
    check(endpoint, client.post(endpoint.path, as_json(body)))


@st.composite
def nearly_right(draw: st.DrawFn) -> tuple[Endpoint, bytes]:
    """The example of an endpoint, with a few places changed, or its bytes."""
    endpoint = draw(endpoints)
    value = EXAMPLES[endpoint.path]
    if draw(st.booleans()):
        return endpoint, as_json(mutated(draw, value))
    data = as_json(value)
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data = (
            data[:at]
            + draw(st.binary(max_size=3) | st.sampled_from((b'"', b"\\", b"{", b"]", b"\xff", b"\\ud800", b"\0")))
            + data[at + draw(st.integers(0, 3)) :]
        )
    return endpoint, data


@many(COUNTS["mutated"])
@given(nearly_right())
def test_the_examples_with_something_wrong(client, case):
    endpoint, body = case
    check(endpoint, client.post(endpoint.path, body))


@many(COUNTS["bytes"])
@given(
    endpoints,
    st.binary(max_size=200) | st.builds(lambda part, times: part * times, st.binary(min_size=1, max_size=4), st.integers(1, 2000)),
)
@example(WITH_BODY[0], b"[" * 100_000)
@example(WITH_BODY[0], b'{"input":' * 100_000)
@example(WITH_BODY[0], b'{"input": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
@example(WITH_BODY[0], b'{"input": "a", "user": ' + b"[" * 100_000 + b"]" * 100_000 + b"}")
@example(WITH_BODY[0], b'{"input": "a", "unknown": ' + b'{"a":' * 100_000 + b"0" + b"}" * 100_000 + b"}")
@example(WITH_BODY[0], b'{"input": "' + b"\\ud800" * 1000 + b'"}')
@example(WITH_BODY[0], b'\xef\xbb\xbf{"input": "a"}')
@example(WITH_BODY[0], b"")
def test_bytes_that_are_no_json(client, endpoint, body):
    check(endpoint, client.post(endpoint.path, body))


@st.composite
def broken_http(draw: st.DrawFn) -> tuple[bytes, bool]:
    """Bytes on a connection, and whether an answer to them is waited for: a request that is not complete has none."""
    method = draw(st.sampled_from(("GET", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "get", "", "CONNECT", "PRI")))
    path = draw(
        st.sampled_from(("/embed", "/v1/embeddings", "/", "/live", "/../..", "//", "*", "", "/%ff%00", "/\x7f", "http://a/b", "/a b", "/é"))
    )
    version = draw(st.sampled_from(("HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "HTTP", "")))
    lines = draw(
        st.lists(
            st.sampled_from(
                (
                    "Content-Length: 5",
                    "Content-Length: -1",
                    "Content-Length: 5, 6",
                    "Content-Length: 99999999999999999999999",
                    "Content-Length: x",
                    "Transfer-Encoding: chunked",
                    "Transfer-Encoding: gzip, chunked",
                    "Transfer-Encoding: x",
                    "Expect: 100-continue",
                    "Expect: x",
                    "Connection: close",
                    "Connection: upgrade",
                    "Upgrade: websocket",
                    "Upgrade: h2c",
                    "Host:",
                    "no colon",
                    ": no name",
                    " folded",
                    "a\0b: c",
                    "x-request-id: \x7f\x01",
                    "x" * 5000 + ": y",
                    "y: " + "z" * 70000,
                )
            )
            | st.text(max_size=20),
            max_size=4,
        )
    )
    body = draw(
        st.sampled_from((b"", b"{}", b"hello", b"5\r\nhello\r\n0\r\n\r\n", b"FFFFFFFFFFFFFFFFF\r\n", b"-1\r\n", b"5\r\nhel"))
        | st.binary(max_size=20)
    )
    ending = draw(st.sampled_from(("\r\n", "\r\n", "\r\n", "\n", "\r")))
    head = ending.join([f"{method} {path} {version}", *lines, "", ""]).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 3)) == 0:  # cut, and the connection with it
        whole = head + body
        return whole[: draw(st.integers(0, len(whole)))], False
    return draw(st.sampled_from((head, head, head, b""))) + body, True


@many(COUNTS["http"])
@given(broken_http())
@example((b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", True))  # TLS where there is none
@example((b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", True))
@example((b"POST /embed HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n{", False))
def test_what_is_no_http(client, case):
    data, reads = case
    for got in answers_in(client.send(data, reads=reads)):
        if got.status == 200:  # it was HTTP after all
            continue
        assert got.status in OF_HTTP, (data, got)
        assert got.media_type == "application/json", (data, got)
        answer = json.loads(got.body)
        assert any(fits(answer, form) for form in (OpenAIError, TeiError)), (data, got)


def fits(answer: Any, form: type[OpenAIError] | type[TeiError]) -> bool:
    with contextlib.suppress(msgspec.ValidationError):
        return msgspec.convert(answer, form) is not None
    return False


def test_cut_bodies_leave_no_request_behind(client: Client, server: Running, tmp_path: Path) -> None:
    """Three hundred clients that go away in the middle of a body; `goes_on` finds none of their requests under way."""
    whole = as_json(EXAMPLES["/v1/embeddings"])
    head = f"POST /v1/embeddings HTTP/1.1\r\nHost: here\r\nContent-Length: {len(whole)}\r\n\r\n".encode()
    for place in range(300):
        client.send(head + whole[: place % len(whole)], reads=False)
    assert server.ask("/live").status == 200
