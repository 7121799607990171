"""A program of this package in a process of its own, on CPUs of its own: JSON documents to it and from it, a line each."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from types import TracebackType
from typing import IO, Any

from cls_runtime.bench.cpu_split import pin
from cls_runtime.errors import EngineError


class ChildProcess:
    """`python -m MODULE ARGUMENTS`; it is killed when the `with` statement ends."""

    def __init__(self, module: str, *arguments: str, cpus: Sequence[int] = ()) -> None:
        self._module = module
        self._opened = contextlib.ExitStack()
        self._log = self._opened.enter_context(tempfile.TemporaryFile())
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log)
        pin(self._process.pid, cpus)

    def say(self, document: object) -> None:
        """Sends a document."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):  # where it has ended, `answer` says why
            self._process.stdin.write(json.dumps(document).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self) -> Any:
        """Waits for its next document.

        Raises:
            EngineError: it has ended; the message has its last line.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            self._process.wait()
            raise EngineError(f"python -m {self._module} ended with exit code {self._process.returncode}: {last_line(self._log)}")
        return json.loads(line)

    def __enter__(self) -> ChildProcess:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._process.kill()
        self._process.wait()
        self._opened.close()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):  # what was written last may not have reached a process that had ended
                    pipe.close()


def last_line(log: IO[bytes]) -> str:
    """The last line of a process's output."""
    log.seek(0)
    return (log.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
