"""What the clients of test_clients.py talk to: a cls-serve process for each kind of bundle, started when it is first asked for.

`embedding` is all-MiniLM-L6-v2 with its own pooling, which the Makefile exports. The others are small random models that are exported here:
`prompted` has prompts and sizes to cut vectors to, `reranker` one logit and `classifier` several.
"""

from __future__ import annotations

import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import checkpoints
from test_consumers import bundle_in, sampled

from cls_exporter import ExportConfig, export
from cls_runtime import Encoder
from cls_runtime.bundle.golden import read_golden

KEY = "a-key-of-tests"
LABELS = 3
CUT_TO = 8
PROMPTS = {"query": "the query: ", "document": "text of a model: "}
SMALL_TEXTS = ["the cat sat on a mat", "x", "hello world", "a dog runs fast, the cat sat", "", "text of a model " * 30, "vector"]
QUERY = "a cat on the mat"
START_S = 60.0


@dataclass(frozen=True)
class Served:
    """A server, and the Encoder that its answers are held against."""

    url: str
    model: str
    texts: list[str]
    encoder: Encoder

    def given(self) -> dict[str, object]:
        """What a client is told."""
        return {"url": self.url, "key": KEY, "model": self.model, "texts": self.texts, "query": QUERY}


def _prompted(folder: Path, target: Path) -> None:
    checkpoints.make_checkpoint(folder, changes={"matryoshka_dimensions": [CUT_TO, checkpoints.HIDDEN]})
    pooling = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
    checkpoints.add_sentence_modules(folder, pooling=pooling, modules=[("Normalize", "2_Normalize")])
    checkpoints.edit_json(folder / "config_sentence_transformers.json", {"prompts": PROMPTS})
    export(folder, target)


def _with_logits(folder: Path, target: Path, *, labels: int) -> None:
    checkpoints.make_checkpoint(folder, kind="classifier", labels=labels)
    weights = checkpoints.read_weights_of(folder)
    head = {name: tensor * 20 for name, tensor in weights.items() if name == "classifier.weight"}  # scores that differ
    checkpoints.write_weights_of(folder, weights | head)
    export(folder, target, config=ExportConfig(logits=True))


MADE: Mapping[str, Callable[[Path, Path], None]] = {
    "prompted": _prompted,
    "reranker": partial(_with_logits, labels=1),
    "classifier": partial(_with_logits, labels=LABELS),
}
KINDS = ("embedding", *MADE)


class Servers:
    """One process a kind of bundle, from when a test asks for it until `close`."""

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
            bundle = bundle_in("mean")
            golden = read_golden(bundle / "golden.npz")
            texts = [golden.texts[index] for index in sampled(golden)]
        else:
            bundle, texts = self._folder / kind, SMALL_TEXTS
            MADE[kind](self._folder / f"{kind}-checkpoint", bundle)
        model = "all-MiniLM-L6-v2" if kind == "embedding" else f"my-{kind}"
        url = self._open.enter_context(_running(bundle, model=model, key_file=self._key_file, log=self._folder / f"{kind}.log"))
        encoder = self._open.enter_context(Encoder.load(bundle, variant="fp32", on_overflow="truncate"))
        return Served(url, model, texts, encoder)


@contextlib.contextmanager
def _running(bundle: Path, *, model: str, key_file: Path, log: Path):  # type: ignore[no-untyped-def]
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
            assert process.wait(START_S) == 0, log.read_text(encoding="utf-8")
        finally:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until:
        assert process.poll() is None, log.read_text(encoding="utf-8")
        with contextlib.suppress(OSError), contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=5)) as connection:
            connection.request("GET", "/ready")
            if connection.getresponse().status == 200:
                return
        time.sleep(0.05)
    raise AssertionError(f"not ready after {START_S:.0f} s: {log.read_text(encoding='utf-8')}")
