"""What the clients of test_clients.py talk to: a cls-serve process for each kind of bundle, started when it is first asked for.

`embedding` is all-MiniLM-L6-v2 with its own pooling, under the name that the page's lines ask for; the others are the small models of
served_bundles.py.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from minilm import bundle_in
from numpy.typing import NDArray
from served import Running, running
from snippets import ROOT

from cls_runtime import Encoder
from cls_runtime.bundle.golden import read_golden

KINDS = ("embedding", "prompted", "reranker", "classifier")
KEY = "a-key-of-tests"
QUERY = "a cat on the mat"
SMALL_TEXTS = ["the cat sat on a mat", "x", "hello world", "a dog runs fast, the cat sat", "", "text of a model " * 30, "vector"]


@dataclass(frozen=True)
class Asked:
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
        self._asked: dict[str, Asked] = {}
        self._open = contextlib.ExitStack()
        self._key_file = folder / "keys"
        self._key_file.write_text(f"{KEY}\n", encoding="utf-8")
        self._key_file.chmod(0o600)

    def __getitem__(self, kind: str) -> Asked:
        if kind not in self._asked:
            self._asked[kind] = self._start(kind)
        return self._asked[kind]

    def __enter__(self) -> Servers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._open.close()

    def _start(self, kind: str) -> Asked:
        if kind == "embedding":
            bundle, model = bundle_in("mean"), "bge-small-en-v1.5"
            golden = read_golden(bundle / "golden.npz").texts
            texts = [*golden[::10], max(golden, key=len)]
        else:
            bundle, model, texts = ROOT / "build" / "served" / kind, f"my-{kind}", SMALL_TEXTS
        options = ("--variant", "fp32", "--model-name", model, "--api-key-file", self._key_file)
        server = self._open.enter_context(_ending_well(running(bundle, *options, log=self._folder / f"{kind}.log")))
        encoder = self._open.enter_context(Encoder.load(bundle, variant="fp32", on_overflow="truncate"))
        return Asked(server.url, model, texts, encoder)


@contextlib.contextmanager
def _ending_well(server: AbstractContextManager[Running]) -> Iterator[Running]:
    """The server, which has nothing to complain about when it is ended."""
    with server as running:
        yield running
    code = running.process.returncode
    assert code == 0, f"cls-serve ended with {code}: {running.log.read_text(encoding='utf-8')[-5000:]}"
