"""One line a request, with what it was and how long each phase took; never a text or a key."""

from __future__ import annotations

import json
import sys
from typing import TextIO

from cls_runtime.serving.options import LogFormat
from cls_runtime.serving.record import PHASES, RequestRecord

# Asked by machines, every few seconds.
_PROBES = ("/live", "/ready", "/health", "/metrics")


class RequestLog:
    """Writes the lines."""

    def __init__(self, form: LogFormat, *, stream: TextIO | None = None) -> None:
        self._json = form == "json"
        self._stream = stream or sys.stderr

    def ended(self, record: RequestRecord, seconds: float) -> None:
        """The line of a request that has ended."""
        if record.endpoint in _PROBES and record.status == 200:
            return
        fields = fields_of(record, seconds)
        line = json.dumps(fields) if self._json else " ".join(f"{name}={value}" for name, value in fields.items())
        self._write(line)

    def _write(self, line: str) -> None:
        try:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        except (OSError, ValueError):  # whoever read it is gone; requests go on
            return


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
