"""The server in its container: the steps of deploy/Dockerfile, then user 10001, a read-only root and no network, in bubblewrap."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from container_image import Builder, Image, as_user, ignored, no_sandbox, stages
from golden_bundle import build_golden_bundle

from cls_runtime import Encoder

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
DOCKERFILE = DEPLOY / "Dockerfile"
KEY = "a-key-of-this-test"
TEXTS = ["a text", "another one", ""]
READY_SECONDS = 60
# In place of the image's host and port.
ON_A_SOCKET = {"CLS_SERVE_UDS": "/run/cls/socket"}

WHY_NOT = no_sandbox()
sandboxed = [pytest.mark.slow, pytest.mark.skipif(WHY_NOT is not None, reason=WHY_NOT or "")]


# ---------------------------------------------------------------- what the files say


def test_every_stage_can_be_read_and_the_last_one_is_the_default() -> None:
    found = stages(DOCKERFILE.read_text(encoding="utf-8"))
    assert list(found) == ["build", "base", "with-model", "server"]
    assert found["with-model"].base == found["server"].base == "base"
    assert found["build"].base == found["base"].base
    assert "slim" in found["base"].base


def test_the_image_is_nobodys_but_user_10001() -> None:
    base = stages(DOCKERFILE.read_text(encoding="utf-8"))["base"]
    expected = {"USER": "10001:10001", "STOPSIGNAL": "SIGTERM", "ENTRYPOINT": '["cls-serve"]'}
    assert {keyword: step.value for keyword in expected if (step := base.last(keyword))} == expected
    check = base.last("HEALTHCHECK")
    assert check is not None
    program = json.loads(check.value.partition(" CMD ")[2])  # the exec form: no shell, and no curl
    assert program[-1] == "/opt/cls-export/healthcheck.py"
    assert not any(step.keyword == "USER" for stage in ("with-model", "server") for step in stages(DOCKERFILE.read_text())[stage].steps)


def test_everything_installed_is_pinned() -> None:
    runs = [
        step.value for stage in stages(DOCKERFILE.read_text(encoding="utf-8")).values() for step in stage.steps if step.keyword == "RUN"
    ]
    installs = [run for run in runs if " install " in run]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in run for run in installs)


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("runtime/cls_runtime/encoder.py", True),
        ("benchmarks/peers/x.py", True),
        ("models/all-MiniLM-L6-v2/onnx/model.onnx", True),
        ("runtime/cls_runtime/__pycache__/encoder.cpython-313.pyc", False),
        ("deploy/api-keys.txt", False),
        (".git/config", False),
        (".venv/bin/python", False),
        ("benchmarks/memory.py", False),
    ],
)
def test_the_engine_is_sent_what_is_copied_and_nothing_else(path: str, kept: bool) -> None:
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert ignored(path, patterns) is not kept


def test_an_unknown_instruction_is_an_error() -> None:
    with pytest.raises(ValueError, match="VOLUME"):
        stages("FROM x AS y\nVOLUME /data\n")


def checked(environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """The image's health check, with this Python."""
    command = [sys.executable, "-I", str(DEPLOY / "healthcheck.py")]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=30)


def test_the_health_check_says_why_not(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    nobody = checked({"CLS_SERVE_HOST": "0.0.0.0", "CLS_SERVE_PORT": str(port)})
    assert_one_line(nobody)
    wrong = checked({"CLS_SERVE_PORT": "tcp://10.0.0.1:8080"})
    assert_one_line(wrong)
    missing = checked({"CLS_SERVE_UDS": str(tmp_path / "none")})
    assert_one_line(missing)


def assert_one_line(done: subprocess.CompletedProcess[str]) -> None:
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("no answer: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("status", "code"), [("200 OK", 0), ("503 Service Unavailable", 1), ("", 1)])
def test_the_health_check_goes_by_the_status(status: str, code: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        command = [sys.executable, "-I", str(DEPLOY / "healthcheck.py")]
        environment = {**os.environ, "CLS_SERVE_PORT": str(server.getsockname()[1]), "CLS_SERVE_HOST": "0.0.0.0"}
        asking = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        connection, _ = server.accept()
        with connection:
            assert connection.recv(1000).startswith(b"GET /ready HTTP/1.1\r\n")
            if status:
                connection.sendall(f"HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n".encode())
        out, error = asking.communicate(timeout=30)
    assert (asking.returncode, out, error.startswith("not ready: ")) == (code, "", code == 1)


# ---------------------------------------------------------------- what the image does


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository as an engine is sent it, with small bundles in models/: a whole one, and one that is damaged."""
    folder = tmp_path_factory.mktemp("context")
    for path in ROOT.iterdir():
        if path.name not in {"models", ".git"}:
            (folder / path.name).symlink_to(path)
    whole = build_golden_bundle(folder / "models" / "small", max_length=48)
    damaged = shutil.copytree(whole, folder / "models" / "damaged") / "onnx" / "model.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\x07")
    return folder


@pytest.fixture(scope="module")
def builder(context: Path, tmp_path_factory: pytest.TempPathFactory) -> Builder:
    return Builder(DOCKERFILE, context=context, folder=tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.image("server")


@dataclass
class Container:
    """A running container: its first process as this machine numbers it, and what it has written so far."""

    image: Image
    pid: int
    process: subprocess.Popen[bytes]
    log: Path
    environment: Mapping[str, str]

    def inside(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command in the running container, as its user: what an engine's exec does."""
        joined = ["nsenter", "--target", str(self.pid), "--mount", "--net", "--pid", "--ipc", "--root", "--wd=/"]
        uid, gid = self.image.user.split(":")
        if os.geteuid() == 0:
            joined += ["setpriv", "--reuid", uid, "--regid", gid, "--clear-groups", "--no-new-privs", "--"]
        else:
            joined += ["--user", "--preserve-credentials"]
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return subprocess.run([*joined, "env", "-i", *variables, *command], capture_output=True, text=True, timeout=60)

    def ended(self) -> int:
        """Sends what an engine's stop sends, and gives the exit code."""
        os.kill(self.pid, getattr(signal, self.image.stop_signal))
        return self.process.wait(40)


def container(
    image: Image,
    folder: Path,
    *,
    arguments: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
    mounts: Mapping[str, Path] | None = None,
    writable: Mapping[str, Path] | None = None,
    tmpfs: Sequence[str] = (),
) -> Container:
    """Starts the image's program as process 1: a read-only root, no network, no capabilities; returns at once.

    Args:
        image: what to start.
        folder: for the log.
        arguments: behind the entry point.
        environment: besides the image's.
        mounts: folders and files of this machine, read-only, by their place inside.
        writable: the same, writable.
        tmpfs: folders in memory.
    """
    for place, source in {**(mounts or {}), **(writable or {})}.items():  # an engine makes the places too
        inside = image.root / place.lstrip("/")
        (inside if source.is_dir() else inside.parent).mkdir(parents=True, exist_ok=True)
        if source.is_file():
            inside.touch()
    given = {**image.environment, **(environment or {})}
    started = Image(image.root, given, image.user, image.folder, image.entrypoint)
    words = ["bwrap", *started.in_folder(writable=False), "--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    words += ["--as-pid-1", "--die-with-parent"]
    for option, places in (("--ro-bind", mounts or {}), ("--bind", writable or {})):
        for place, source in places.items():
            words += [option, str(source), place]
    for place in tmpfs:
        words += ["--perms", "1777", "--tmpfs", place]
    read, write = os.pipe()
    log = folder / "log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [*words, "--info-fd", str(write), *as_user(image.user, [*image.entrypoint, *arguments])],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            pass_fds=[write],
        )
    os.close(write)
    with open(read, "rb") as told:
        pid = json.loads(told.read() or b'{"child-pid": 0}')["child-pid"]
    assert pid, log.read_text()
    return Container(image, pid, process, log, given)


def until_healthy(running: Container) -> None:
    """Waits until the image's own health check says so."""
    until = time.monotonic() + READY_SECONDS
    while (done := running.inside(*running.image.healthcheck)).returncode != 0:
        assert running.process.poll() is None, running.log.read_text()
        assert time.monotonic() < until, done.stdout + done.stderr + running.log.read_text()
        time.sleep(0.05)


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def asked(path: Path, method: str, target: str, body: Any = None, *, key: str | None = KEY) -> tuple[int, Any]:
    """A request from outside of the container: the status, and the JSON of the answer."""
    connection = UnixConnection(path)
    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    try:
        connection.request(method, target, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


@pytest.fixture(scope="module")
def sockets() -> Iterator[Path]:
    """A folder of user 10001 for the socket, with one that a server left behind; a socket's path may not be long."""
    with tempfile.TemporaryDirectory(prefix="cls-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(str(folder / "socket"))
        stale.close()
        if os.geteuid() == 0:
            for path in (folder, folder / "socket"):
                os.chown(path, 10001, 10001)
        yield folder


@pytest.fixture(scope="module")
def on_a_socket(image: Image, context: Path, sockets: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Container]:
    """As deploy/compose.yaml starts it, but on a unix socket."""
    service = yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["server"]
    keys = tmp_path_factory.mktemp("keys") / "keys"
    keys.write_text(f"another-key\n{KEY}\n")
    keys.chmod(0o644)
    running = container(
        image,
        tmp_path_factory.mktemp("log"),
        environment={**service["environment"], **ON_A_SOCKET, "CLS_SERVE_THREADS": "1"},
        mounts={"/model": context / "models" / "small", service["environment"]["CLS_SERVE_API_KEY_FILE"]: keys},
        writable={"/run/cls": sockets},
        tmpfs=[place.partition(":")[0] for place in service["tmpfs"]],
    )
    try:
        until_healthy(running)
        yield running
    finally:
        running.process.kill()
        running.process.wait()


@pytest.mark.usefixtures("image")
class TestInTheSandbox:
    pytestmark = sandboxed

    def test_the_image_has_what_serves_and_no_more(self, image: Image) -> None:
        site = next(image.root.glob("opt/cls-export/lib/python3*/site-packages"))
        there = {path.name for path in site.iterdir()}
        assert {"cls_runtime", "onnxruntime", "uvicorn", "starlette"} <= there
        assert not there & {"pip", "torch", "transformers", "onnx", "hatchling"}
        assert list(site.glob("cls_runtime/__pycache__/encoder.*.pyc"))
        assert not (image.root / "src").exists()
        assert sum(path.lstat().st_size for path in (image.root / "opt").rglob("*") if path.is_file()) < 300e6

    def test_it_serves_over_a_unix_socket_in_place_of_a_stale_one(self, on_a_socket: Container, sockets: Path, context: Path) -> None:
        status, answer = asked(sockets / "socket", "POST", "/v1/embeddings", {"input": TEXTS, "encoding_format": "base64"})
        assert status == 200, answer
        rows = np.stack([np.frombuffer(base64.b64decode(item["embedding"]), "<f4") for item in answer["data"]])
        with Encoder.load(context / "models" / "small", threads=1) as encoder:
            np.testing.assert_allclose(rows, encoder.encode(TEXTS), rtol=0, atol=1e-6)
        assert answer["model"] == "bge-small-en-v1.5"
        assert asked(sockets / "socket", "POST", "/v1/embeddings", {"input": "a text"}, key=None)[0] == 401

    def test_it_is_user_10001_without_rights(self, on_a_socket: Container) -> None:
        lines = Path(f"/proc/{on_a_socket.pid}/status").read_text().splitlines()
        status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
        assert on_a_socket.inside("id", "-u").stdout == "10001\n"
        assert status["NSpid"].split()[-1] == "1"  # no shell between the engine's signals and the server
        assert (int(status["CapEff"], 16), int(status["CapPrm"], 16), status["NoNewPrivs"]) == (0, 0, "1")
        if os.geteuid() == 0:
            assert set(status["Uid"].split()) == set(status["Gid"].split()) == {"10001"}

    def test_nothing_can_be_written_and_nothing_is(self, on_a_socket: Container) -> None:
        for place in ("/", "/opt/cls-export", "/model", "/run"):
            done = on_a_socket.inside("touch", f"{place}/x")
            assert done.returncode != 0, place
            assert "Read-only file system" in done.stderr
        assert on_a_socket.inside("find", "/tmp", "-mindepth", "1").stdout == ""

    def test_there_is_no_network(self, on_a_socket: Container) -> None:
        devices = Path(f"/proc/{on_a_socket.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in devices] == ["lo"]

    def test_a_signal_ends_it_with_0(self, image: Image, context: Path, tmp_path: Path) -> None:
        """On a port inside, without even a tmpfs, with options behind the image's name."""
        running = container(image, tmp_path, arguments=["--threads", "1"], mounts={"/model": context / "models" / "small"})
        try:
            until_healthy(running)
            assert running.ended() == 0, running.log.read_text()
            assert "Traceback" not in running.log.read_text()
        finally:
            running.process.kill()
            running.process.wait()

    def test_a_signal_removes_the_socket(self, on_a_socket: Container, sockets: Path) -> None:
        assert (sockets / "socket").is_socket()
        assert on_a_socket.ended() == 0, on_a_socket.log.read_text()
        assert not (sockets / "socket").exists()
        log = on_a_socket.log.read_text()
        assert KEY not in log
        assert all(json.loads(line) for line in log.splitlines() if line.startswith("{"))

    def test_a_bundle_can_be_baked_in(self, builder: Builder, tmp_path: Path) -> None:
        baked = builder.image("with-model", BUNDLE="models/small")
        running = container(baked, tmp_path, environment={"CLS_SERVE_THREADS": "1"})
        try:
            until_healthy(running)
            assert running.ended() == 0, running.log.read_text()
        finally:
            running.process.kill()
            running.process.wait()

    def test_a_damaged_bundle_is_found_while_it_is_baked_in(self, builder: Builder) -> None:
        with pytest.raises(RuntimeError, match=r"error: .*onnx/model\.onnx"):
            builder.image("with-model", BUNDLE="models/damaged")

    def test_a_missing_bundle_is_one_line(self, image: Image, tmp_path: Path) -> None:
        running = container(image, tmp_path, environment={"CLS_SERVE_BUNDLE": "/nothing-here"})
        assert running.process.wait(30) == 2
        assert running.log.read_text().startswith("error: ")
        assert len(running.log.read_text().splitlines()) == 1
