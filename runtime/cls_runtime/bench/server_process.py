"""`cls-serve`, or another server that answers over HTTP, in a process of its own that is measured from outside."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from cls_runtime.bench.child_process import last_line
from cls_runtime.bench.cpu_split import pin
from cls_runtime.bench.resident import resident_bytes
from cls_runtime.errors import EngineError, MissingExtraError

HOST = "127.0.0.1"
SERVE_PACKAGES = ("uvicorn", "httptools", "starlette", "msgspec", "orjson", "prometheus_client")
_POLL_SECONDS = 0.005


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A server that is ready. `ready_s` is the time from the start of its process until it said so."""

    process: subprocess.Popen[bytes]
    port: int
    ready_s: float

    @property
    def address(self) -> tuple[str, int]:
        """Where it listens."""
        return HOST, self.port

    @property
    def resident_bytes(self) -> int:
        """The memory that it holds; 0 where the system does not say."""
        return resident_bytes(self.process.pid)

    @property
    def open_files(self) -> int:
        """How many files and sockets it has open; 0 where the system does not say."""
        try:
            return sum(1 for _ in Path(f"/proc/{self.process.pid}/fd").iterdir())
        except OSError:
            return 0

    @property
    def cpu_seconds(self) -> float:
        """What it computed so far; 0 where the system does not say."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def ask(self, method: str, path: str, *, body: bytes | None = None, limit_s: float = 60.0) -> tuple[int, bytes]:
        """One request on a connection of its own: status and body.

        Raises:
            OSError, http.client.HTTPException: it did not answer.
        """
        return _asked(self.port, method, path, body, limit_s)


def require_serve_extra() -> None:
    """Checks that `cls-serve` can be started.

    Raises:
        MissingExtraError: one of its packages is not installed.
    """
    for package in SERVE_PACKAGES:
        if find_spec(package) is None:
            raise MissingExtraError(f"--serve needs {package}; run: pip install 'cls-export[serve]'")


def serve_command(
    bundle: str | Path, port: int, *, variant: str, engine: str, threads: int, device: str | None = None, options: Sequence[str] = ()
) -> list[str]:
    """How `cls-serve` is started from this environment."""
    command = [sys.executable, "-m", "cls_runtime.commands.serve", str(bundle), "--host", HOST, "--port", str(port)]
    for option, value in (("--variant", variant), ("--engine", engine)):
        if value != "auto":
            command += [option, value]
    if device is not None:
        command += ["--device", device]
    return [*command, "--threads", str(threads), *options]


@contextlib.contextmanager
def server_process(
    command: Sequence[str],
    port: int,
    *,
    cpus: Sequence[int] = (),
    environment: Mapping[str, str] | None = None,
    ready_path: str = "/ready",
    limit_s: float = 120.0,
) -> Iterator[ServerProcess]:
    """Starts a server that will listen on `port`, waits until it is ready, and kills it at the end if it has not ended.

    Raises:
        EngineError: it ended, or was not ready in time; the message has its last line.
    """
    with tempfile.TemporaryFile() as log:
        start = time.monotonic()
        process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            pin(process.pid, cpus)
            while not _is_ready(port, ready_path):
                if process.poll() is not None:
                    raise EngineError(f"the server ended with exit code {process.returncode} before it was ready: {last_line(log)}")
                if time.monotonic() > start + limit_s:
                    raise EngineError(f"the server was not ready after {limit_s:.0f} s: {last_line(log)}")
                time.sleep(_POLL_SECONDS)
            yield ServerProcess(process=process, port=port, ready_s=time.monotonic() - start)
        finally:
            process.kill()
            process.wait()


def free_port() -> int:
    """A port that nothing listens on at this moment."""
    with socket.create_server((HOST, 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _is_ready(port: int, path: str) -> bool:
    try:
        return _asked(port, "GET", path, None, 10.0)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def _asked(port: int, method: str, path: str, body: bytes | None, limit_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(HOST, port, timeout=limit_s)
    try:
        connection.request(method, path, body, {"content-type": "application/json"} if body is not None else {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
