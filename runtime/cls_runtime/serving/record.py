"""`RequestRecord`: what is known of one request. Its headers, its line in the log and the metrics are made of it."""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from cls_runtime.encoding.report import EncodeReport

# A request's way: its body arrives, becomes texts; they wait, become tokens, become vectors; the answer is written.
Phase = Literal["read", "parse", "queue", "tokenize", "compute", "write"]
PHASES: tuple[Phase, ...] = ("read", "parse", "queue", "tokenize", "compute", "write")
# Why a request ended before its answer.
CancelReason = Literal["disconnect", "deadline", "shutdown"]

# Ids are unlike each other, not secret; the system's own random bytes cost a call in which another thread takes Python's lock.
_IDS = random.Random()
# What may stand in a header and in a line of the log.
_REQUEST_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}[\x21-\x7e]{0,128}")


@dataclass(eq=False)
class RequestRecord:
    """One request, from its headers on.

    Attributes:
        id: the client's `x-request-id`, or one of its own.
        method: the HTTP method.
        path: as it was asked for.
        endpoint: the path of the endpoint that it came to, `other` where there is none.
        traceparent: the W3C trace context, where the client sent one.
        started_s: `time.perf_counter` of its headers.
        model: the name of the served model.
        fingerprint: its bundle's.
        inputs: texts or pairs.
        tokens: of those texts, special tokens included.
        truncated: which of the inputs were cut.
        seconds: how long each phase took.
        status: of the answer; 499 where the client went away.
        cancelled: why it ended before its answer.
        refused: the kind of refusal.
    """

    id: str
    method: str
    path: str
    traceparent: str | None = None
    started_s: float = field(default_factory=time.perf_counter)
    endpoint: str = "other"
    model: str | None = None
    fingerprint: str | None = None
    inputs: int = 0
    tokens: int = 0
    truncated: tuple[int, ...] = ()
    seconds: dict[Phase, float] = field(default_factory=dict)
    status: int = 0
    cancelled: CancelReason | None = None
    refused: str | None = None

    @classmethod
    def of(cls, scope: dict[str, Any]) -> RequestRecord:
        """The record of a request that has just arrived."""
        request_id = traceparent = None
        for name, value in scope["headers"]:
            if name == b"x-request-id" and _REQUEST_ID.fullmatch(value):
                request_id = value.decode("ascii")
            elif name == b"traceparent" and _TRACEPARENT.fullmatch(value):
                traceparent = value.decode("ascii")
        return cls(request_id or f"{_IDS.getrandbits(128):032x}", scope["method"], scope["path"], traceparent)

    def add(self, report: EncodeReport) -> None:
        """Takes in what the Encoder did for it; a request may ask it more than once."""
        self.truncated += tuple(item.index for item in report.truncated)
        self.tokens += report.input_tokens
        spent: tuple[tuple[Phase, float], ...] = (("queue", report.queue_s), ("tokenize", report.tokenize_s), ("compute", report.compute_s))
        for phase, seconds in spent:
            self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """What every answer carries."""
        timing = "".join([f"{phase};dur={seconds * 1e3:.2f}, " for phase, seconds in self.seconds.items()])
        total = (time.perf_counter() - self.started_s) * 1e3
        headers = [(b"x-request-id", self.id.encode("ascii")), (b"server-timing", f"{timing}total;dur={total:.2f}".encode("ascii"))]
        if self.fingerprint is not None:
            headers.append((b"x-cls-fingerprint", self.fingerprint.encode("ascii")))
        if self.tokens:
            headers.append((b"x-compute-tokens", b"%d" % self.tokens))
        if self.truncated:
            headers.append((b"x-cls-truncated", b"%d" % len(self.truncated)))
        return headers
