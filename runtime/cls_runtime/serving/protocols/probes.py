"""What asks whether the server lives, may be sent requests, and what it does: Kubernetes and Prometheus."""

from __future__ import annotations

from starlette.responses import Response

from cls_runtime.serving.answers import JsonResponse
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.metrics import CONTENT_TYPE
from cls_runtime.serving.protocols.tei import error


async def live(_call: Call[None]) -> Response:
    """The process answers."""
    return JsonResponse({"status": "ok"})


async def ready(call: Call[None]) -> Response:
    """It may be sent requests."""
    if (refusal := call.service.unready) is not None:
        raise refusal
    return JsonResponse({"status": "ok"})


async def metrics(call: Call[None]) -> Response:
    """Prometheus' text format."""
    return Response(call.service.metrics.text(), media_type=CONTENT_TYPE)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(method="GET", path="/live", summary="Whether the process answers", handle=live, errors=error, tag="probes", needs_key=False),
    *(
        Endpoint(
            method="GET", path=path, summary="Whether it may be sent requests", handle=ready, errors=error, tag="probes", needs_key=False
        )
        for path in ("/ready", "/health")
    ),
    Endpoint(
        method="GET",
        path="/metrics",
        summary="For Prometheus",
        handle=metrics,
        errors=error,
        answer=CONTENT_TYPE,
        tag="probes",
        needs_key=False,
    ),
)
