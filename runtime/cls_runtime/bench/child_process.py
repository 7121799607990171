"""A program of this package in a process of its own, on CPUs of its own: JSON documents to it and from it, a line each."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import IO, Any

from cls_runtime.bench.cpu_split import pin
from cls_runtime.errors import EngineError


class ChildProcess:
    """A program that runs; see `child_process`."""

    def __init__(self, module: str, process: subprocess.Popen[bytes], log: IO[bytes]) -> None:
        self._module = module
        self._process = process
        self._log = log

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


@contextlib.contextmanager
def child_process(module: str, *arguments: str, cpus: Sequence[int] = ()) -> Iterator[ChildProcess]:
    """Starts `python -m MODULE ARGUMENTS` on these CPUs, or on all where none are named; kills it at the end."""
    command = [sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log)
        try:
            pin(process.pid, cpus)
            yield ChildProcess(module, process, log)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):  # what was written last may not have reached a process that had ended
                        pipe.close()


def last_line(log: IO[bytes]) -> str:
    """The last line of a process's output."""
    log.seek(0)
    return (log.read().decode(errors="replace").strip().splitlines() or ["no output"])[-1]
