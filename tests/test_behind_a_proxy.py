"""docs/guides/serve.md's nginx in front of two servers on unix sockets, one of them restarted after the other."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from golden_bundle import build_golden_bundle

pytest.importorskip("uvicorn")

ROOT = Path(__file__).resolve().parent.parent
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
START_SECONDS = 60

pytestmark = [pytest.mark.slow, pytest.mark.skipif(NGINX is None, reason="needs nginx: apt-get install nginx-light")]


@dataclass
class Replica:
    """A server on a unix socket, which can be restarted."""

    bundle: Path
    place: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "cls_runtime.commands.serve", str(self.bundle), "--uds", str(self.place), "--threads", "1"]
        with open(self.place.with_suffix(".log"), "ab") as log:
            self.process = subprocess.Popen([*command, "--drain-delay", "0.2"], stdout=log, stderr=log)
        until = time.monotonic() + START_SECONDS
        while not self.place.exists():
            assert self.process.poll() is None, self.place.with_suffix(".log").read_text()
            assert time.monotonic() < until
            time.sleep(0.02)

    def end(self) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()


@dataclass(frozen=True)
class Proxy:
    """nginx, and the servers behind it."""

    url: str
    replicas: tuple[Replica, ...]

    def ask(self, path: str, body: bytes | None = None) -> tuple[int, dict[str, str], bytes]:
        """A status, headers by their names in small letters, and a body."""
        try:
            with urllib.request.urlopen(urllib.request.Request(self.url + path, data=body), timeout=60) as answer:
                return answer.status, {name.lower(): value for name, value in answer.headers.items()}, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, {name.lower(): value for name, value in error.headers.items()}, error.read()


def configuration(folder: Path, replicas: tuple[Replica, ...], port: int) -> str:
    """The page's lines, with these servers in place of its, a free port, and no certificate."""
    (lines,) = re.findall(
        r"^```nginx\n(.*?)^```$", (ROOT / "docs" / "guides" / "serve.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    changes = [
        (r"unix:/run/cls/serve\.sock", f"unix:{replicas[0].place}"),
        (r"embeddings-1:8080", f"unix:{replicas[1].place}"),
        (r"    server embeddings-2:8080 [^\n]*\n", ""),
        (r"listen 443 ssl;", f"listen 127.0.0.1:{port};"),
        (r"    server_name [^\n]*\n    ssl_certificate [^\n]*\n    ssl_certificate_key [^\n]*\n", ""),
    ]
    for old, new in changes:
        lines, count = re.subn(old, new, lines)
        assert count == 1, old
    temporary = "".join(f"{name}_temp_path {folder}/{name};\n" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    user = "user root;\n" if os.geteuid() == 0 else ""
    head = f"{user}daemon off;\nworker_processes 1;\npid {folder}/pid;\nerror_log {folder}/error.log;\n"
    return f"{head}events {{}}\nhttp {{\naccess_log off;\n{temporary}{lines}}}\n"


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    bundle = build_golden_bundle(tmp_path_factory.mktemp("bundle") / "small", max_length=48)
    with tempfile.TemporaryDirectory(prefix="cls-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        replicas = tuple(Replica(bundle, folder / f"{letter}.sock") for letter in "ab")
        for replica in replicas:
            stack.callback(replica.kill)
            replica.start()
        with socket.create_server(("127.0.0.1", 0)) as place:
            port = place.getsockname()[1]
        (folder / "nginx.conf").write_text(configuration(folder, replicas, port))
        nginx = subprocess.Popen([str(NGINX), "-p", str(folder), "-c", str(folder / "nginx.conf")])
        stack.callback(nginx.wait)
        stack.callback(nginx.terminate)
        found = Proxy(f"http://127.0.0.1:{port}", replicas)
        until = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(OSError):
                if found.ask("/ready")[0] == 200:
                    break
            assert nginx.poll() is None, (folder / "error.log").read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        yield found


def test_what_it_answers_is_the_servers(proxy: Proxy) -> None:
    status, headers, body = proxy.ask("/v1/embeddings", json.dumps({"input": ["a text", "another"]}).encode())
    assert (status, len(json.loads(body)["data"])) == (200, 2)
    assert re.fullmatch(r"[0-9a-f]{32}", headers["x-request-id"])  # nginx's own, by which both logs name the request
    status, headers, body = proxy.ask("/v1/embeddings", b"{")
    assert (status, "error" in json.loads(body)) == (400, True)


def test_metrics_stay_inside(proxy: Proxy) -> None:
    assert proxy.ask("/metrics")[0] == 403


def test_a_body_up_to_the_servers_limit_gets_the_servers_answer(proxy: Proxy) -> None:
    text = "x" * (16 * 2**20 - 40)
    status, _, body = proxy.ask("/embed", json.dumps({"inputs": text}).encode())
    assert status == 200, body
    status, _, body = proxy.ask("/v1/embeddings", json.dumps({"input": ["x"] * 2049}).encode())
    assert status == 413
    assert "--max-inputs" in json.loads(body)["error"]["message"]


def test_no_request_is_lost_while_one_after_the_other_is_restarted(proxy: Proxy) -> None:
    stop = threading.Event()
    statuses: list[int] = []

    def client() -> None:
        body = json.dumps({"input": "a text"}).encode()
        for _ in range(20_000):
            if stop.is_set():
                return
            try:
                statuses.append(proxy.ask("/v1/embeddings", body)[0])
            except OSError:
                statuses.append(0)

    clients = [threading.Thread(target=client) for _ in range(4)]
    for thread in clients:
        thread.start()
    try:
        for replica in proxy.replicas:
            time.sleep(0.3)
            assert replica.end() == 0, replica.place.with_suffix(".log").read_text()
            replica.start()
        time.sleep(0.3)
    finally:
        stop.set()
        for thread in clients:
            thread.join(60)
    assert len(statuses) > 100
    assert {status: statuses.count(status) for status in set(statuses)} == {200: len(statuses)}
