"""A real server in a thread of the test's process, and a client that says exactly what the test wants on its socket."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cls_runtime import Encoder
from cls_runtime.serving import server as server_module
from cls_runtime.serving.application import endpoint_names
from cls_runtime.serving.limits import Limits
from cls_runtime.serving.models import ServedModel, ServedModels
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.request_log import RequestLog
from cls_runtime.serving.server import Server
from cls_runtime.serving.service import Service

PATIENT = 60


@dataclass(frozen=True)
class Answer:
    """An answer as it stood on the wire."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def closes(self) -> bool:
        return self.headers.get("connection") == "close"


class Client:
    """One connection."""

    def __init__(self, address: Any) -> None:
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.socket = socket.socket(family)
        self.socket.settimeout(PATIENT)
        try:
            self.socket.connect(address)
        except BaseException:
            self.socket.close()
            raise
        self._read = b""

    def send(self, data: bytes) -> Client:
        self.socket.sendall(data)
        return self

    def post(self, path: str, body: bytes | Any, *headers: str) -> Client:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.send(request("POST", path, *headers, f"content-length: {len(data)}") + data)

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; `head` where it has no body."""
        while b"\r\n\r\n" not in self._read:
            self._more()
        top, self._read = self._read.split(b"\r\n\r\n", 1)
        lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
        length = 0 if head else int(headers.get("content-length", 0))
        while len(self._read) < length:
            self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Answer(int(lines[0].split()[1]), headers, body)

    def _more(self) -> None:
        data = self.socket.recv(2**16)
        if not data:
            raise EOFError(f"the server closed the connection after {self._read!r}")
        self._read += data

    def is_closed(self) -> bool:
        """Whether the server closes it, without anything more."""
        return not self._read and not self.socket.recv(1)

    def reset(self) -> None:
        """Goes away without a goodbye."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.socket.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()


def request(method: str, path: str, *headers: str) -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "host: here", *headers, "", ""]).encode()


class LiveServer:
    """A server of an Encoder on a free port or a unix socket, until `end` or `with` ends."""

    def __init__(self, *encoders: Encoder, limits: Limits | None = None, stalled_s: float = 30.0, **options: Any) -> None:
        names = [f"tiny{place or ''}" for place in range(len(encoders))]
        models = [ServedModel((name,), encoder, 1) for name, encoder in zip(names, encoders, strict=True)]
        self.options = ServeOptions(bundles=tuple(names), **({"port": 0} | options))
        self.out = io.StringIO()
        log = RequestLog(self.options.log_format, stream=self.out)
        self.service = Service(self.options, ServedModels(models), endpoints=endpoint_names(), log=log, stalled_s=stalled_s)
        self.server = Server(self.service, limits=limits)
        self._thread = threading.Thread(target=server_module._run, args=(self._live(),), daemon=True)

    async def _live(self) -> None:
        self.loop = asyncio.get_running_loop()
        await self.server.live()

    @property
    def log(self) -> list[str]:
        until(lambda: not self.service._ended)  # requests are logged a little after their end
        return self.out.getvalue().splitlines()

    @property
    def address(self) -> Any:
        until(lambda: "listening on" in self.out.getvalue())
        found = re.search(r"listening on (?:unix:(\S+)|http://\S+:(\d+))", self.out.getvalue())
        assert found is not None
        return found[1] or ("127.0.0.1", int(found[2]))

    def client(self) -> Client:
        return Client(self.address)

    def end(self) -> None:
        """Begins to end, as a signal lets it."""
        self.loop.call_soon_threadsafe(self.server.end)

    def wait(self) -> None:
        self._thread.join(PATIENT)
        assert not self._thread.is_alive()

    def __enter__(self) -> LiveServer:
        self._thread.start()
        assert self.address
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread.is_alive():
            self.end()
        self.wait()


def until(is_so: Callable[[], object]) -> None:
    """Waits until it is so."""
    deadline = time.monotonic() + PATIENT
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@contextlib.contextmanager
def clients(server: LiveServer, count: int) -> Iterator[Sequence[Client]]:
    """Several connections."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(server.client()) for _ in range(count)]
