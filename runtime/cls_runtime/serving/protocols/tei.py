"""text-embeddings-inference's endpoints, as huggingface_hub's InferenceClient and its other clients ask for them."""

from __future__ import annotations

from typing import Any

from cls_runtime.serving.endpoint import Endpoint
from cls_runtime.serving.refusal import Kind, Refusal

_TYPES: dict[Kind, str] = {
    "empty": "Empty",
    "unsupported": "Backend",
    "overloaded": "Overloaded",
    "failed": "Backend",
    "draining": "Unhealthy",
    "stalled": "Unhealthy",
    "late": "Unhealthy",
}
_STATUS: dict[Kind, int] = {"invalid": 422, "unsupported": 424}


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """A refusal as its clients read it."""
    about = {"error": refusal.message, "error_type": _TYPES.get(refusal.kind, "Validation")}
    return _STATUS.get(refusal.kind, refusal.status), about


ENDPOINTS: tuple[Endpoint, ...] = ()
