"""`/openapi.json`: OpenAPI 3.1, made of the table of endpoints and of the types that their bodies are decoded to."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from types import UnionType
from typing import Any, Union, get_args, get_origin

import msgspec

from cls_runtime import __version__
from cls_runtime.serving.bodies import OtherVectors
from cls_runtime.serving.endpoint import Endpoint
from cls_runtime.serving.examples import EXAMPLES
from cls_runtime.serving.refusal import Kind, Refusal

VERSION = "3.1.0"
DESCRIPTION = """\
Vectors of texts, for the clients of OpenAI, text-embeddings-inference, Cohere and Jina.

Unknown fields are ignored, except those that ask for other vectors than this server computes (`pooling`, `task` and the like):
they fail with 400. Texts that are too long are cut, and the header `x-cls-truncated` says how many; with `truncate: false` the
request fails instead. Anything that is not HTTP gets 400, and the connection is closed."""

_JSON = "application/json"
# Of two types with one name each is named by its module, as in `tei.EmbedRequest`.
_PROTOCOLS = b"cls_runtime.serving.protocols."
_SCHEMA = "#/components/schemas/{name}"
# Of what takes a body; the others only fail, and say so.
_OF_BODIES: tuple[Kind, ...] = (
    "malformed",
    "invalid",
    "empty",
    "unknown_model",
    "too_large",
    "unsupported",
    "overloaded",
    "draining",
    "late",
)
_HEADERS = {
    "x-request-id": ("The request's own, or one that the server makes; it appears in the log.", {"type": "string"}),
    "server-timing": ("Milliseconds per phase, and in total.", {"type": "string"}),
    "x-cls-fingerprint": ("Identifies the bundle that answered: same fingerprint, same vectors.", {"type": "string"}),
    "x-compute-tokens": ("Tokens of the request's texts; absent if none were computed.", {"type": "integer"}),
    "x-cls-truncated": ("How many texts were cut; absent if none were.", {"type": "integer"}),
    "retry-after": ("Seconds to wait before retrying.", {"type": "integer"}),
    "www-authenticate": ("How to send a key.", {"type": "string"}),
}
_OF_ALL = ("x-request-id", "server-timing", "x-cls-fingerprint", "x-compute-tokens", "x-cls-truncated")
_OF_STATUS = {
    401: ("www-authenticate",),
    429: ("retry-after",),
    503: ("retry-after",),
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "api-key": {"type": "apiKey", "in": "header", "name": "api-key"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


class ErrorObject(msgspec.Struct):
    """What is wrong; `param` is the field, `code` is for programs."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """A refusal, as clients of OpenAI (`error`) and of Cohere (`message`) read it."""

    error: ErrorObject
    message: str


class TeiError(msgspec.Struct):
    """A refusal, as clients of text-embeddings-inference read it."""

    error: str
    error_type: str


def document(endpoints: Sequence[Endpoint], *, keys: bool) -> dict[str, Any]:
    """The document of these endpoints.

    Args:
        endpoints: all that there are.
        keys: whether the server asks for one.
    """
    types = list(dict.fromkeys(kind for endpoint in endpoints for kind in _types_of(endpoint)))
    described = msgspec.json.encode(msgspec.json.schema_components(types, ref_template=_SCHEMA))
    schemas, components = msgspec.json.decode(described.replace(_PROTOCOLS, b""))
    schema_of = dict(zip(types, schemas, strict=True))
    for request in _requests(OtherVectors):
        for name in {request.__name__, f"{request.__module__.rpartition('.')[2]}.{request.__name__}"} & components.keys():
            _hide_other_vectors(components[name], request)
    paths: dict[str, dict[str, Any]] = {}
    refusals: dict[str, Any] = {}
    for endpoint in endpoints:
        paths.setdefault(_path(endpoint), {})[endpoint.method.lower()] = _operation(endpoint, schema_of, keys=keys)
        form = _error_of(endpoint)
        for status in statuses_of(endpoint):
            refusals[_refusal_name(form, status)] = _response(status, {_JSON: {"schema": schema_of[form]}})
    return {
        "openapi": VERSION,
        "info": {"title": "cls-serve", "version": __version__, "description": DESCRIPTION, "license": {"name": "Apache-2.0"}},
        "servers": [{"url": "/"}],
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in endpoints)],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": refusals,
            "headers": {name: {"description": about, "schema": schema} for name, (about, schema) in _HEADERS.items()},
            **({"securitySchemes": _KEYS} if keys else {}),
        },
    }


def statuses_of(endpoint: Endpoint) -> list[int]:
    """What it may answer besides 200, by what it takes and how its protocol writes refusals."""
    kinds: set[Kind] = {"failed"}
    if endpoint.body is not None:
        kinds.update(_OF_BODIES)
    if "{" in endpoint.path:
        kinds.add("unknown_model")
    if endpoint.needs_key:
        kinds.add("unauthorized")
    return sorted({endpoint.errors(Refusal(kind, ""))[0] for kind in kinds} | {*endpoint.statuses})


def _operation(endpoint: Endpoint, schema_of: dict[Any, Any], *, keys: bool) -> dict[str, Any]:
    statuses = [status for status in statuses_of(endpoint) if keys or status != HTTPStatus.UNAUTHORIZED]
    form = _error_of(endpoint)
    about: dict[str, Any] = {
        "operationId": _name(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "responses": {
            "200": _response(200, _answer(endpoint, schema_of)),
            **{str(status): {"$ref": f"#/components/responses/{_refusal_name(form, status)}"} for status in statuses},
        },
    }
    if names := re.findall(r"{(\w+)", endpoint.path):
        about["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
        ]
    if endpoint.body is not None:
        content = {"schema": _schema(endpoint.body, schema_of)}
        if endpoint.path in EXAMPLES:
            content["example"] = EXAMPLES[endpoint.path]
        about["requestBody"] = {"required": True, "content": {_JSON: content}}
    if keys and endpoint.needs_key:
        about["security"] = [{name: []} for name in _KEYS]
    return about


def _answer(endpoint: Endpoint, schema_of: dict[Any, Any]) -> dict[str, Any]:
    if isinstance(endpoint.answer, str):
        return {endpoint.answer: {"schema": {"type": "string"}}}
    return {_JSON: {"schema": {} if endpoint.answer is None else _schema(endpoint.answer, schema_of)}}


def _response(status: int, content: dict[str, Any]) -> dict[str, Any]:
    names = (*_OF_ALL, *_OF_STATUS.get(status, ()))
    headers = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    return {"description": HTTPStatus(status).phrase, "headers": headers, "content": content}


def _types_of(endpoint: Endpoint) -> Iterator[Any]:
    yield _error_of(endpoint)
    if endpoint.body is not None:
        yield from _choices(endpoint.body)
    if endpoint.answer is not None and not isinstance(endpoint.answer, str):
        yield from _choices(endpoint.answer)


def _choices(kind: Any) -> tuple[Any, ...]:
    """The types of a union, each by itself: msgspec describes no union of two lists, as an answer may be."""
    return get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)


def _schema(kind: Any, schema_of: dict[Any, Any]) -> dict[str, Any]:
    schemas = [schema_of[choice] for choice in _choices(kind)]
    return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}


def _error_of(endpoint: Endpoint) -> type[OpenAIError] | type[TeiError]:
    """Which of the two forms its refusals have."""
    return TeiError if isinstance(endpoint.errors(Refusal("failed", ""))[1]["error"], str) else OpenAIError


def _requests(kind: type[OtherVectors]) -> Iterator[type[OtherVectors]]:
    """The types of requests."""
    for request in kind.__subclasses__():
        yield request
        yield from _requests(request)


def _hide_other_vectors(schema: dict[str, Any], request: type[OtherVectors]) -> None:
    """Leaves out the fields that are there to be refused, where a request does not take them itself."""
    own = {name for ancestor in request.__mro__[: request.__mro__.index(OtherVectors)] for name in ancestor.__annotations__}
    for name in set(OtherVectors.__struct_fields__) - own:
        schema["properties"].pop(name, None)


def _refusal_name(form: type[OpenAIError] | type[TeiError], status: int) -> str:
    return f"{form.__name__}{status}"


def _path(endpoint: Endpoint) -> str:
    """Its path without the types of its places."""
    return re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path)


def _name(endpoint: Endpoint) -> str:
    words = re.findall(r"\w+", _path(endpoint))
    return "_".join([endpoint.method.lower(), *words])
