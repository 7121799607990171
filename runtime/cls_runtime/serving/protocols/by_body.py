"""POST /, as InferenceClient asks a server whose address is all that it was given: what is meant is in the body."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgspec
from starlette.responses import Response

from cls_runtime.serving.bodies import decoded, value_of
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.protocols import predict, rerank, tei
from cls_runtime.serving.refusal import Refusal

_AT = {endpoint.path: endpoint for endpoint in (*tei.ENDPOINTS, *rerank.ENDPOINTS)}
_EMBED, _SIMILARITY, _RERANK = _AT["/embed"], _AT["/similarity"], _AT["/rerank"]
_PREDICT = dataclasses.replace(predict.ENDPOINTS[0], handle=predict.predict_nested)
_NULL = b"null"


class _Fields(msgspec.Struct):
    """What tells the requests apart; what is in them is left for the endpoint that takes them."""

    inputs: msgspec.Raw = msgspec.Raw(_NULL)
    query: msgspec.Raw = msgspec.Raw(_NULL)
    model: msgspec.Raw = msgspec.Raw(_NULL)


_FIELDS = msgspec.json.Decoder(_Fields)


async def by_body(call: Call[msgspec.Raw]) -> Response:
    """What the endpoint answers that the body is meant for."""
    body = bytes(call.body)
    most = call.service.options.max_inputs
    endpoint = _meant(call, decoded(body, _FIELDS, max_inputs=most))
    return await endpoint.handle(dataclasses.replace(call, body=decoded(body, endpoint.decoder, max_inputs=most)))


def _meant(call: Call[Any], fields: _Fields) -> Endpoint:
    """The endpoint of TEI that takes the body. A text goes to the model that is named, or to the first: to be classified where it can."""
    if bytes(fields.query) != _NULL:
        return _RERANK
    if bytes(fields.inputs) == _NULL:
        raise Refusal("malformed", "the body has neither inputs nor query, expected one of the two", param="inputs")
    if bytes(fields.inputs)[:1] == b"{":
        return _SIMILARITY
    name = value_of(fields.model)
    model = call.service.models.find(name if isinstance(name, str) else None)
    return _PREDICT if model.labels else _EMBED


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/",
        summary="/similarity, /rerank, /predict or /embed, chosen by the body and the model; predictions are in a list even for one text",
        handle=by_body,
        errors=tei.error,
        body=msgspec.Raw,
        answer=Any,
        tag="TEI",
    ),
)
