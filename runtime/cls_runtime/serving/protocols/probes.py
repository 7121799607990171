"""What asks whether the server lives, may be sent requests, and what it does: Kubernetes and Prometheus."""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.responses import Response

from cls_runtime.serving.answers import JsonResponse
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.metrics import CONTENT_TYPE
from cls_runtime.serving.protocols.tei import error


class Well(msgspec.Struct):
    """It is."""

    status: Literal["ok"]


_WELL = JsonResponse({"status": "ok"}).body


async def live(_call: Call[None]) -> Response:
    """The process answers."""
    return JsonResponse(_WELL)


async def ready(call: Call[None]) -> Response:
    """It may be sent requests. That it may not is the answer to this question and no refusal of a request: it counts as none."""
    if (reason := call.service.unready) is None:
        return JsonResponse(_WELL)
    status, body = error(reason)
    return JsonResponse(body, status_code=status, headers={"retry-after": str(reason.retry_after_s or 1)})


async def metrics(call: Call[None]) -> Response:
    """Prometheus' text format."""
    call.service.account()
    return Response(await call.service.metrics.text(), media_type=CONTENT_TYPE)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="GET",
        path="/live",
        summary="Whether the process runs",
        handle=live,
        errors=error,
        answer=Well,
        tag="Probes",
        needs_key=False,
    ),
    *(
        Endpoint(
            method="GET",
            path=path,
            summary="Whether the server accepts requests",
            handle=ready,
            errors=error,
            answer=Well,
            tag="Probes",
            needs_key=False,
            statuses=(503,),
        )
        for path in ("/ready", "/health")
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        summary="Metrics for Prometheus",
        handle=metrics,
        errors=error,
        answer=CONTENT_TYPE,
        tag="Probes",
        needs_key=False,
    ),
)
