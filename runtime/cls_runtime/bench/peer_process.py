"""A side's process: it loads its model, says so, and embeds when it is its turn (benchmarks/peers/common/peer_protocol.py)."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from cls_runtime.bench.peer_environments import PeerError, last_line


class PeerProcess:
    """A running side. `settings` and `versions` are what it says of itself.

    Raises:
        PeerError: it ended before it was ready, or was not ready in time.
    """

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], log: Path, limit_s: float) -> None:
        self._log = log
        self._limit_s = limit_s
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()
        with log.open("w") as written:
            self._process = subprocess.Popen(
                list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=written, text=True, env=dict(environment)
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        greeting = self._answer("did not load its model")
        self.settings = str(greeting["settings"])
        self.versions: dict[str, str] = greeting["versions"]

    def embed(self, texts: Path, vectors: Path) -> float:
        """Seconds for the texts in the JSON file `texts`; their vectors, float32 [n, width], go to the file `vectors`.

        Raises:
            PeerError: the process ended, or did not answer in time; it is not usable any more.
        """
        assert self._process.stdin is not None
        with suppress(OSError):  # where the process has ended, its answer says why
            self._process.stdin.write(json.dumps({"texts": str(texts), "vectors": str(vectors)}) + "\n")
            self._process.stdin.flush()
        return float(self._answer("did not embed the texts")["seconds"])

    def close(self) -> None:
        """Ends the process. May be called more than once."""
        self._process.kill()
        self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was written last may not have reached a process that had ended
                    pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put("")

    def _answer(self, failure: str) -> dict[str, Any]:
        try:
            line = self._answers.get(timeout=self._limit_s)
        except queue.Empty:
            self.close()
            raise PeerError(f"{failure} within {self._limit_s:.0f} s") from None
        if not line:
            with suppress(subprocess.TimeoutExpired):  # it has closed its output, and is about to end
                self._process.wait(timeout=10)
            self.close()
            told = last_line(self._log.read_text(errors="replace"))
            raise PeerError(f"{failure}, ended with exit code {self._process.returncode}: {told}")
        answer: dict[str, Any] = json.loads(line)
        return answer
