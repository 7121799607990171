"""The log: one line a request, with what it was and how long each phase took, and lines about the server; never a text or a key.

Lines are written by a thread of their own, so that a reader who has stopped reading stops nothing else. What that reader misses is counted.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections import deque
from typing import TextIO

from cls_runtime.serving.options import LogFormat
from cls_runtime.serving.record import PHASES, RequestRecord

# Asked by machines, every few seconds.
_PROBES = ("/live", "/ready", "/health", "/metrics")
_SERVERS_FAULT = 500  # and above
# Lines that wait to be written; more are left out.
MOST_LINES = 20_000
# What is logged within this time is written together.
_TOGETHER_SECONDS = 0.05
_CLOSE_SECONDS = 1.0


class RequestLog:
    """Writes the lines.

    Args:
        form: `text` or `json`.
        quiet: only warnings, and requests that the server failed to answer.
        stream: gets each line at once, without a thread; None for standard error.
    """

    def __init__(self, form: LogFormat, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._json = form == "json"
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._at_once = stream is not None
        self._lines: deque[str] = deque()
        self._missed = 0
        self._second = (0, "")
        self._some = threading.Event()
        self._closed = False
        self._writer: threading.Thread | None = None

    def ended(self, record: RequestRecord, seconds: float, *, at: float) -> None:
        """The line of a request that has ended `at` that time."""
        if (record.endpoint in _PROBES and record.status == 200) or (self._quiet and record.status < _SERVERS_FAULT):
            return
        fields = {"time": self._words(at), **fields_of(record, seconds)}
        self._add(json.dumps(fields) if self._json else " ".join(f"{name}={value}" for name, value in fields.items()))

    def say(self, event: str, message: str, *, news: bool = False, **fields: str | float) -> None:
        """A line about the server: for people the message, for machines the event and its fields too. A quiet log has no news."""
        if not (news and self._quiet):
            self._add(self._line(event, message, **fields))

    def close(self) -> None:
        """Writes what is left, unless nobody takes it."""
        self._closed = True
        self._some.set()
        if self._writer is not None:
            self._writer.join(_CLOSE_SECONDS)

    def _add(self, line: str) -> None:
        if self._at_once:
            self._stream.write(f"{line}\n")
            return
        if len(self._lines) >= MOST_LINES:
            self._missed += 1
            return
        self._lines.append(line)
        if not self._some.is_set():
            if self._writer is None:
                self._writer = threading.Thread(target=self._write, name="cls-log", daemon=True)
                self._writer.start()
            self._some.set()

    def _write(self) -> None:
        closed = False
        while not closed:
            self._some.wait()
            if not self._closed:
                time.sleep(_TOGETHER_SECONDS)
            self._some.clear()
            closed = self._closed  # read behind `clear`, so that no call of `close` is missed
            lines = [self._lines.popleft() for _ in range(len(self._lines))]
            if self._missed:
                missed, self._missed = self._missed, 0
                lines.append(self._line("missed", f"{missed} lines were dropped because nothing read the log", missed=missed))
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
            except (OSError, ValueError):  # whoever read it is gone; requests go on
                continue

    def _line(self, event: str, message: str, **fields: str | float) -> str:
        if self._json:
            return json.dumps({"time": self._now(), "event": event, "message": message, **fields})
        return f"time={self._now()} {message}"

    def _now(self) -> str:
        return self._words(time.time())

    def _words(self, now: float) -> str:
        second = int(now)
        if self._second[0] != second:
            self._second = (second, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)))
        return f"{self._second[1]}.{int((now - second) * 1e3):03d}Z"


def fields_of(record: RequestRecord, seconds: float) -> dict[str, str | int | float]:
    """What a line says. The path is quoted, since a client chooses it."""
    fields: dict[str, str | int | float] = {
        "id": record.id,
        "method": record.method,
        "path": json.dumps(record.path[:200])[1:-1].replace(" ", "%20"),
        "status": record.status,
        "inputs": record.inputs,
        "tokens": record.tokens,
        "truncated": len(record.truncated),
        "ms": round(seconds * 1e3, 2),
    }
    fields |= {f"{phase}_ms": round(record.seconds[phase] * 1e3, 2) for phase in PHASES if phase in record.seconds}
    for name, value in (
        ("model", record.model),
        ("refused", record.refused),
        ("cancelled", record.cancelled),
        ("traceparent", record.traceparent),
    ):
        if value is not None:
            fields[name] = value
    return fields
