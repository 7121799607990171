"""What a client's program is given, and where its results go. Python's own modules only: it runs in the client's environment.

`given.json` holds the servers by kind (`url`, `key`, `model`, `texts`, `query`) and `results.json` becomes a list of records. A record
says which server was asked (`server`), for what (`kind`), in which way (`how`), what came (`value`), and what the Encoder is to be asked
with (`options`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any


class Results:
    """The records of one program. `embedding`, `prompted`, `reranker` and `classifier` are the servers that it has."""

    def __init__(self) -> None:
        self._servers = {name: SimpleNamespace(**given) for name, given in json.loads(Path("given.json").read_text("utf-8")).items()}
        self._records: list[dict[str, Any]] = []

    def __getattr__(self, name: str) -> SimpleNamespace:
        if name not in self._servers:
            raise AttributeError(f"no server {name}; test_clients.py says which a program has")
        return self._servers[name]

    def add(self, server: str, kind: str, how: str, value: Any, **options: Any) -> None:
        """One result; `options` are arguments of `Encoder.encode`, `texts` other texts than the given ones."""
        self._records.append({"server": server, "kind": kind, "how": how, "value": value, "options": options})

    @contextmanager
    def refused(self, how: str, error: type[BaseException], *words: str) -> Iterator[None]:
        """The client raises `error`, and its text has all of `words`: what the server said reaches the user."""
        try:
            yield
        except error as raised:
            missing = [word for word in words if word not in str(raised)]
            if missing:
                raise AssertionError(f"{how}: {raised!r} does not say {missing}") from raised
        else:
            raise AssertionError(f"{how}: not refused; expected {error.__name__}")

    def write(self) -> None:
        """Last line of each program: what did not run until here has no results."""
        text = json.dumps(self._records, default=lambda array: array.tolist())
        Path("results.json").write_text(text, encoding="utf-8")
