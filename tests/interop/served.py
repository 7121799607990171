"""What the clients of test_clients.py talk to: a cls-serve process for each kind of bundle, started when it is first asked for.

`embedding` is all-MiniLM-L6-v2 with its own pooling; the others are the small models of served_bundles.py.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from minilm import bundle_in, sampled
from numpy.typing import NDArray
from snippets import ROOT

from cls_runtime import Encoder
from cls_runtime.bundle.golden import read_golden

KINDS = ("embedding", "prompted", "reranker", "classifier")
KEY = "a-key-of-tests"
QUERY = "a cat on the mat"
SMALL_TEXTS = ["the cat sat on a mat", "x", "hello world", "a dog runs fast, the cat sat", "", "text of a model " * 30, "vector"]
_START_S = 60.0


@dataclass(frozen=True)
class Served:
    """A server, and the Encoder that its answers are held against."""

    url: str
    model: str
    texts: list[str]
    encoder: Encoder
    _known: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    def given(self) -> dict[str, object]:
        """What a client is told."""
        return {"url": self.url, "key": KEY, "model": self.model, "texts": self.texts, "query": QUERY}

    def encode(self, texts: list[Any], **options: Any) -> NDArray[np.float32]:
        """`Encoder.encode`, once for the same texts and options."""
        key = json.dumps([texts, options], sort_keys=True)
        if key not in self._known:
            self._known[key] = self.encoder.encode(texts, **options)
        return self._known[key]


class Servers:
    """One process a kind of bundle, from when a test asks for it until the end."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._served: dict[str, Served] = {}
        self._open = contextlib.ExitStack()
        self._key_file = folder / "keys"
        self._key_file.write_text(f"{KEY}\n", encoding="utf-8")
        self._key_file.chmod(0o600)

    def __getitem__(self, kind: str) -> Served:
        if kind not in self._served:
            self._served[kind] = self._start(kind)
        return self._served[kind]

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._open.close()

    def _start(self, kind: str) -> Served:
        if kind == "embedding":
            bundle, model = bundle_in("mean"), "all-MiniLM-L6-v2"
            golden = read_golden(bundle / "golden.npz")
            texts = [golden.texts[index] for index in sampled(golden)]
        else:
            bundle, model, texts = ROOT / "build" / "served" / kind, f"my-{kind}", SMALL_TEXTS
        url = self._open.enter_context(_running(bundle, model=model, key_file=self._key_file, log=self._folder / f"{kind}.log"))
        encoder = self._open.enter_context(Encoder.load(bundle, variant="fp32", on_overflow="truncate"))
        return Served(url, model, texts, encoder)


@contextlib.contextmanager
def _running(bundle: Path, *, model: str, key_file: Path, log: Path) -> Iterator[str]:
    """A cls-serve process until the end, by its address."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = "import sys; from cls_runtime.commands.start import own_process; sys.exit(own_process('cls_runtime.commands.serve'))"
    options = ["--port", str(port), "--variant", "fp32", "--model-name", model, "--api-key-file", str(key_file)]
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", program, str(bundle), *options], stdout=out, stderr=out)
        try:
            _wait_until_ready(process, port, log)
            yield f"http://127.0.0.1:{port}"
            process.send_signal(signal.SIGTERM)
            code = process.wait(_START_S)
            assert code == 0, f"exit code {code}: {log.read_text(encoding='utf-8')[-5000:]}"
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + _START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"not ready after {_START_S:.0f} s: {log.read_text(encoding='utf-8')}")
