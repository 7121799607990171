"""A server in the test's process, asked over ASGI: no socket, and every part of it at hand. And a real one, in a process of its own."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import faulthandler
import io
import json
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cls_runtime import Encoder
from cls_runtime.serving.application import Application, endpoint_names
from cls_runtime.serving.exchange import LEFT
from cls_runtime.serving.models import ServedModel, ServedModels
from cls_runtime.serving.options import ServeOptions
from cls_runtime.serving.request_log import RequestLog
from cls_runtime.serving.service import Service

START_SECONDS = 60


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Served:
    """A service and its application, on an event loop of its own thread."""

    def __init__(self, options: ServeOptions, models: ServedModels) -> None:
        self._log = io.StringIO()
        self.options = options
        self.service = Service(options, models, endpoints=endpoint_names(), log=RequestLog(options.log_format, stream=self._log))
        self.application = Application(self.service)
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()
        self.loop.call_soon_threadsafe(self.service.watch)

    @classmethod
    def of(cls, *bundles: Path, **options: Any) -> Served:
        """Loads bundles as `cls-serve` does."""
        given = ServeOptions(bundles=tuple(map(str, bundles)), **({"threads": 2} | options))
        return cls(given, ServedModels.load(given))

    @classmethod
    def on(cls, *encoders: Encoder, **options: Any) -> Served:
        """On Encoders that are there already (`watched`), which are closed with it; their names are `tiny`, `tiny1`, `tiny2` and so on."""
        names = [f"tiny{place or ''}" for place in range(len(encoders))]
        models = [ServedModel((name,), encoder, 1) for name, encoder in zip(names, encoders, strict=True)]
        return cls(ServeOptions(bundles=tuple(names), **options), ServedModels(models))

    @property
    def log(self) -> io.StringIO:
        """The log; requests are logged a little after their end."""
        while self.service._ended:
            time.sleep(0.01)
        return self._log

    @property
    def encoder(self) -> Encoder:
        """The first bundle's."""
        return self.service.models.all[0].encoder

    def start(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        headers: Sequence[tuple[str, str]] = (),
        parts: Sequence[bytes] | None = None,
        leaves: asyncio.Event | None = None,
    ) -> futures.Future[Answer]:
        """Sends a request and does not wait. What is not bytes becomes JSON; `parts` come one by one; the client goes at `leaves`."""
        pieces = parts if parts is not None else [b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()]
        return asyncio.run_coroutine_threadsafe(self._ask(method, path, pieces, headers, leaves), self.loop)

    def request(self, method: str, path: str, body: Any = None, **options: Any) -> Answer:
        """Sends a request and waits for its answer; where none comes, it says what each thread is at."""
        try:
            return self.start(method, path, body, **options).result(60)
        except futures.TimeoutError:
            faulthandler.dump_traceback()
            raise

    def get(self, path: str, **options: Any) -> Answer:
        return self.request("GET", path, **options)

    def post(self, path: str, body: Any = None, **options: Any) -> Answer:
        return self.request("POST", path, body, **options)

    async def _ask(
        self, method: str, path: str, pieces: Sequence[bytes], headers: Sequence[tuple[str, str]], leaves: asyncio.Event | None
    ) -> Answer:
        target, _, query = path.partition("?")
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": urllib.request.unquote(target),
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in headers],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }
        messages: list[Any] = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
        messages[-1]["more_body"] = False
        sent: list[Any] = []

        async def receive() -> Any:
            if messages:
                return messages.pop(0)
            await asyncio.Event().wait()
            return None

        async def send(message: Any) -> None:
            sent.append(message)

        async def goes(event: asyncio.Event) -> None:
            await event.wait()
            scope[LEFT]()

        going = asyncio.ensure_future(goes(leaves)) if leaves is not None else None
        await self.application(scope, receive, send)
        if going is not None:
            going.cancel()
        start = next((message for message in sent if message["type"] == "http.response.start"), {"status": 0, "headers": ()})
        received = {name.decode("latin-1"): value.decode("latin-1") for name, value in start["headers"]}
        return Answer(start["status"], received, b"".join(message.get("body", b"") for message in sent))

    def close(self) -> None:
        """Frees the models and ends the loop."""

        async def ended() -> None:
            self.service.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(ended(), self.loop).result(60)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def from_base64(text: str) -> np.ndarray:
    """A vector as OpenAI's clients read it."""
    return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4")


@dataclass(frozen=True)
class Running:
    """A real server."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def ask(self, path: str, body: Any = None, *, headers: Mapping[str, str] | None = None) -> Answer:
        """GET, or POST where there is a body."""
        data = None if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=dict(headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return Answer(answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return Answer(error.code, {name.lower(): value for name, value in error.headers.items()}, error.read())


@contextlib.contextmanager
def running(*arguments: str | Path, log: Path) -> Iterator[Running]:
    """`cls-serve ARGUMENTS --port P` in a process of its own, ready; its output is in `log`. It is ended by SIGTERM."""
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    command = [sys.executable, "-m", "cls_runtime.commands.serve", *map(str, arguments), "--port", str(port)]
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
        server = Running(f"http://127.0.0.1:{port}", process, log)
        try:
            _wait_until_ready(server)
            yield server
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                raise


def _wait_until_ready(server: Running) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise AssertionError(f"cls-serve ended with {server.process.returncode}: {server.log.read_text()}")
        with contextlib.suppress(OSError):
            if server.ask("/ready").status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"cls-serve is not ready after {START_SECONDS} s: {server.log.read_text()}")
