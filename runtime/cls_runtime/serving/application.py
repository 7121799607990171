"""The application: every endpoint at its path, and what is around each request: its id, its key, its body, its end."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections.abc import Awaitable, Callable, Mapping
from pathlib import PurePath
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route, Router

from cls_runtime.errors import ClsError
from cls_runtime.serving.answers import JsonResponse
from cls_runtime.serving.bodies import decoded, read_body
from cls_runtime.serving.endpoint import Call, Endpoint, ErrorForm
from cls_runtime.serving.exchange import LEFT
from cls_runtime.serving.pages import pages
from cls_runtime.serving.protocols import by_body, cohere, openai, predict, probes, rerank, tei
from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.service import Service
from cls_runtime.serving.turning_away import TurningAway

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

_API: tuple[Endpoint, ...] = (
    *openai.ENDPOINTS,
    *tei.ENDPOINTS,
    *predict.ENDPOINTS,
    *rerank.ENDPOINTS,
    *cohere.ENDPOINTS,
    *by_body.ENDPOINTS,
    *probes.ENDPOINTS,
)
ENDPOINTS: tuple[Endpoint, ...] = (*_API, *pages.endpoints(_API))
# What a client that went away would have been told; nobody reads it but the log.
CLIENT_GONE = 499


def endpoint_names() -> list[str]:
    """What the endpoints are called in the metrics: their paths."""
    return sorted({endpoint.path for endpoint in ENDPOINTS})


class Application:
    """The ASGI application of a service.

    Attributes:
        turning_away: what answers in its place while the queue is full.
    """

    def __init__(self, service: Service) -> None:
        self._service = service
        by_path: dict[str, dict[str, Endpoint]] = {}
        for endpoint in ENDPOINTS:
            by_path.setdefault(endpoint.path, {})[endpoint.method] = endpoint
        paths = {path: _Path(service, methods) for path, methods in by_path.items()}
        # Most paths are found at once; the router, which tries one after another, has those with places in them.
        router = Router([Route(path, paths.pop(path)) for path in by_path if "{" in path], redirect_slashes=False, default=_nothing_here)

        async def inner(scope: Scope, receive: Receive, send: Send) -> None:
            await paths.get(scope["path"], router)(scope, receive, send)

        self._inner: Any = inner
        if service.options.cors_origins:
            self._inner = CORSMiddleware(
                inner,
                allow_origins=service.options.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],  # npm's openai, for one, sends a dozen of its own
                expose_headers=["x-request-id", "x-cls-fingerprint", "x-cls-truncated", "server-timing", "x-compute-tokens", "retry-after"],
            )
        models = service.models.all
        self._fingerprint = models[0].fingerprint if len(models) == 1 else None
        self.turning_away = TurningAway(service, ENDPOINTS, self._fingerprint)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        if scope["type"] != "http":
            return
        record = scope["cls.record"] = RequestRecord.of(scope)
        record.fingerprint = self._fingerprint

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *record.headers]
            await send(message)

        try:
            if (refusal := scope.get("cls.refusal")) is not None:  # what arrived is no request
                await refused(refusal, openai.error, record)(scope, receive, send_with_headers)
            else:
                await self._inner(scope, receive, send_with_headers)
        finally:
            self._service.ended(record)


class _Path:
    """A path's endpoints, by method."""

    def __init__(self, service: Service, methods: Mapping[str, Endpoint]) -> None:
        self._service = service
        self._methods = methods
        first = next(iter(methods.values()))
        self._path = first.path
        self._errors = first.errors
        self._allowed = ", ".join(methods)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        record: RequestRecord = scope["cls.record"]
        record.endpoint = self._path
        endpoint = self._methods.get("GET" if scope["method"] == "HEAD" else scope["method"])
        if endpoint is None:
            refusal = Refusal("wrong_method", f"{scope['path'][:200]!r} takes {self._allowed}", headers={"allow": self._allowed})
            await refused(refusal, self._errors, record)(scope, receive, send)
            return
        flight = self._service.flights.start(record)
        scope[LEFT] = flight.left
        try:
            response = await self._answer(endpoint, scope, receive)
            began = time.perf_counter()
            await response(scope, receive, send)
            record.seconds["write"] = record.seconds.get("write", 0.0) + time.perf_counter() - began
        except asyncio.CancelledError:
            if record.cancelled is None:
                raise
            await self._cancelled(endpoint, record, scope, receive, send)
        except ConnectionError:
            record.cancelled, record.status = "disconnect", CLIENT_GONE
        finally:
            del scope[LEFT]
            self._service.flights.end(flight)

    async def _answer(self, endpoint: Endpoint, scope: Scope, receive: Receive) -> Response:
        """The answer, or the refusal in its protocol's words."""
        service, record = self._service, scope["cls.record"]
        held = 0
        try:
            if service.closing:
                raise Refusal("draining", "the server is shutting down; try another replica", retry_after_s=1)
            if endpoint.needs_key:
                service.keys.check(scope["headers"])
            body = None
            if endpoint.body is not None:
                if (full := service.admission.full) is not None:
                    raise full
                raw = await read_body(receive, scope["headers"], limit=service.options.max_body_bytes, budget=service.bodies)
                held = len(raw)
                read = time.perf_counter()
                record.seconds["read"] = read - record.started_s
                body = decoded(raw, endpoint.decoder, max_inputs=service.options.max_inputs)
                del raw  # while its texts wait, they are there twice else
                record.seconds["parse"] = time.perf_counter() - read
            return await endpoint.handle(Call(service, record, body, scope.get("path_params", {}), scope["query_string"]))
        except Refusal as refusal:
            if refusal.kind == "failed":
                self._log(record, refusal)
            return refused(refusal, endpoint.errors, record)
        except ConnectionError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it is, it is this request's alone
            self._log(record, error)
            failure = Refusal("failed", "the request failed; look up its x-request-id in the server's log")
            return refused(failure, endpoint.errors, record)
        finally:
            service.bodies.give(held)

    def _log(self, record: RequestRecord, error: Exception) -> None:
        """Says what failed and where. Of errors that are not ours the message is left out, for it may have a text in it."""
        what = f": {error}" if isinstance(error, (ClsError, Refusal)) else ""
        frames = traceback.extract_tb(error.__traceback__)
        where = f" at {PurePath(frames[-1].filename).name}:{frames[-1].lineno} in {frames[-1].name}" if frames else ""
        line = f"request {record.id} to {record.endpoint} failed: {type(error).__name__}{where}{what}"
        self._service.log.say("failure", " ".join(line.split()), id=record.id)

    async def _cancelled(self, endpoint: Endpoint, record: RequestRecord, scope: Scope, receive: Receive, send: Send) -> None:
        """What is left to say to a request that was ended before its answer."""
        if record.cancelled == "disconnect":
            record.status = CLIENT_GONE
            return
        if record.status:  # its answer has begun, and the rest of it was not taken in time; the connection is closed
            return
        late = record.cancelled == "deadline"
        refusal = Refusal(
            "late" if late else "draining",
            f"the request took longer than {self._service.options.deadline_s:g} s"
            if late
            else "the server is shutting down; try another replica",
            code="deadline_exceeded" if late else None,
            retry_after_s=1,
            headers={"connection": "close"},
        )
        await refused(refusal, endpoint.errors, record)(scope, receive, send)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    refusal = Refusal("unknown_path", f"there is no {scope['path'][:200]!r}; /docs lists the endpoints")
    await refused(refusal, openai.error, scope["cls.record"])(scope, receive, send)


def refused(refusal: Refusal, errors: ErrorForm, record: RequestRecord) -> Response:
    """A refusal as an answer."""
    record.refused = refusal.kind
    status, body = errors(refusal)
    headers = dict(refusal.headers)
    if refusal.retry_after_s is not None:
        headers["retry-after"] = str(refusal.retry_after_s)
    return JsonResponse(body, status_code=status, headers=headers)
