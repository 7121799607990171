"""The shortest way to say no: while the queue is full, an answer of 429 costs a fraction of what a request does.

A server that gets four times what it can do says no three times for each yes, on the CPUs that the engine computes on. So such a request
has no task and passes no router: its connection asks here for the bytes of the answer, once the request is complete, and writes them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import orjson

from cls_runtime.serving.endpoint import Endpoint, ErrorForm
from cls_runtime.serving.exchange import head_of
from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.service import Service


@dataclass(frozen=True, slots=True)
class TurnedAway:
    """A request that is refused, once it has arrived."""

    record: RequestRecord
    endpoint: Endpoint
    refusal: Refusal


class TurningAway:
    """Answers requests for the endpoints that compute, while there is no room for any.

    Args:
        service: whose queue it is.
        endpoints: all of them.
        fingerprint: what goes into the answers' headers, where there is one bundle.
    """

    def __init__(self, service: Service, endpoints: Iterable[Endpoint], fingerprint: str | None) -> None:
        self._service = service
        self._fingerprint = fingerprint
        # CORS has headers of its own for every answer.
        computing = () if service.options.cors_origins else endpoints
        self._endpoints = {endpoint.path: endpoint for endpoint in computing if endpoint.method == "POST" and endpoint.body is not None}
        self._refusal: Refusal | None = None
        self._written: dict[ErrorForm, tuple[int, bytes]] = {}

    def request(self, scope: Any) -> TurnedAway | None:
        """A request that is refused before it is looked at; None where it is to go the usual way."""
        endpoint = self._endpoints.get(scope["path"])
        if endpoint is None or scope["method"] != "POST" or self._service.closing:
            return None
        refusal = self._service.admission.full
        if refusal is None:
            return None
        try:
            if endpoint.needs_key:
                self._service.keys.check(scope["headers"])
        except Refusal:
            return None
        return TurnedAway(RequestRecord.of(scope), endpoint, refusal)

    def answer(self, request: TurnedAway, *, head: Iterable[tuple[bytes, bytes]], close: bool) -> bytes:
        """The answer to it; it is counted and logged.

        Args:
            request: as `request` gives it.
            head: headers of every answer of the server.
            close: whether the connection is closed behind it.
        """
        record, endpoint, refusal = request.record, request.endpoint, request.refusal
        record.endpoint, record.refused, record.fingerprint = endpoint.path, refusal.kind, self._fingerprint
        if refusal is not self._refusal:
            self._refusal = refusal
            self._written.clear()
        if endpoint.errors not in self._written:
            status, about = endpoint.errors(refusal)
            self._written[endpoint.errors] = (status, orjson.dumps(about))
        record.status, body = self._written[endpoint.errors]
        headers = [
            *head,
            (b"content-length", b"%d" % len(body)),
            (b"content-type", b"application/json"),
            (b"retry-after", b"%d" % (refusal.retry_after_s or 1)),
            *record.headers,
        ]
        if close:
            headers.append((b"connection", b"close"))
        self._service.ended(record)
        return head_of(record.status, headers) + body
