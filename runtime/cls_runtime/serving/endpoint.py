"""`Endpoint`: a path and a method, what comes in and goes out, and the function between. `Call`: what that function is given."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from starlette.responses import Response

from cls_runtime.serving.record import RequestRecord
from cls_runtime.serving.refusal import Refusal

if TYPE_CHECKING:
    from cls_runtime.serving.service import Service

Body = TypeVar("Body")


@dataclass(frozen=True)
class Call(Generic[Body]):
    """One request on its way through a handler.

    Attributes:
        service: the models, and what is around them.
        record: what is known of the request.
        body: the decoded body; None where the endpoint takes none.
        path: what stands in the path's places, by name.
        query: the query string.
    """

    service: Service
    record: RequestRecord
    body: Body
    path: Mapping[str, str] = field(default_factory=dict)
    query: bytes = b""


Handler = Callable[[Call[Any]], Awaitable[Response]]
# A refusal's status and its body, as the protocol's clients read them.
ErrorForm = Callable[[Refusal], tuple[int, dict[str, Any]]]


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A row of a protocol's table.

    Attributes:
        method: GET or POST.
        path: with its places in braces; also its name in the metrics.
        summary: a line for /docs.
        handle: makes the answer.
        errors: how the protocol writes a refusal.
        body: the type of the JSON that comes in; None for no body.
        answer: the type of what goes out, for the documentation; a str is a media type that is not JSON.
        tag: the protocol's name.
        needs_key: whether a key is asked for, where the server has keys.
        statuses: what it may answer besides 200 and the refusals of every endpoint that takes what it takes (`openapi`).
    """

    method: str
    path: str
    summary: str
    handle: Handler
    errors: ErrorForm
    body: Any = None
    answer: Any = None
    tag: str = ""
    needs_key: bool = True
    statuses: tuple[int, ...] = ()

    @cached_property
    def decoder(self) -> msgspec.json.Decoder[Any]:
        """Decodes its body."""
        return msgspec.json.Decoder(self.body)
