"""OpenAI's embeddings and models, as openai-python, LangChain, LlamaIndex and LiteLLM ask for them."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec
from starlette.responses import Response

from cls_runtime.serving import work
from cls_runtime.serving.answers import Float32, JsonResponse, base64_of, items, with_items
from cls_runtime.serving.bodies import ABSENT, OtherVectors, Side, truncation_side
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.refusal import Kind, Refusal

Value = TypeVar("Value")

# https://platform.openai.com/docs/guides/error-codes
_TYPES: dict[Kind, str] = {
    "unauthorized": "authentication_error",
    "overloaded": "rate_limit_error",
    "failed": "server_error",
    "draining": "server_error",
    "stalled": "server_error",
    "late": "server_error",
}
# What the texts of a request may be, and the prompt of such texts; Cohere's names with ours.
_INPUT_TYPES = {"query": "query", "document": "document", "search_query": "query", "search_document": "document"}
_OTHER_INPUT_TYPES = ("classification", "clustering")


class EmbeddingsRequest(OtherVectors, kw_only=True):
    """The body of POST /v1/embeddings.

    `output_dimension` is `dimensions` as Mistral, Voyage and Cohere call it, `normalized` is Jina's `normalize`, `truncation` is Voyage's
    `truncate`, and `truncation_side` vLLM's name for TEI's `truncation_direction`.
    """

    input: str | list[str]
    model: str | None = None
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: int | None = None
    user: msgspec.Raw = ABSENT
    prompt_name: str | None = None
    input_type: str | None = None
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None
    output_dimension: int | None = None
    normalized: bool | None = None
    truncation: bool | None = None
    truncation_side: Side | None = None


class Usage(msgspec.Struct):
    """The tokens of a request, special tokens included."""

    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct):
    """A text's vector: numbers, or little-endian float32 in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(msgspec.Struct, omit_defaults=True):
    """The answer of POST /v1/embeddings; `truncated` lists the inputs that were cut, if any."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    truncated: list[int] = []


class Model(msgspec.Struct):
    """A served model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class Models(msgspec.Struct):
    """All served models."""

    object: Literal["list"]
    data: list[Model]


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """A refusal as OpenAI's clients and Cohere's read it."""
    about = {
        "message": refusal.message,
        "type": _TYPES.get(refusal.kind, "invalid_request_error"),
        "param": refusal.param,
        "code": refusal.code,
    }
    return refusal.status, {"error": about, "message": refusal.message}


def prompt_of(model: ServedModel, *, prompt_name: str | None, input_type: str | None) -> str | None:
    """The prompt that a request names: by its own name, or by what its texts are. In a bundle without prompts every kind has none.

    Raises:
        Refusal: it names two, or an input type that is none.
    """
    if input_type is None:
        return prompt_name
    prompts = model.encoder.manifest.prompts
    if input_type in prompts:  # some models have Cohere's own words for prompts
        kind: str | None = input_type
    elif input_type in _INPUT_TYPES:
        kind = _INPUT_TYPES[input_type]
    elif input_type in _OTHER_INPUT_TYPES and not prompts:
        kind = None
    else:
        *most, last = dict.fromkeys(("query", "document", *(prompts or _OTHER_INPUT_TYPES)))
        found = f"input_type is {input_type[:100]!r}, expected {', '.join(most)} or {last}"
        raise Refusal("invalid", found, param="input_type")
    if prompt_name is not None and prompt_name != kind:
        raise Refusal("invalid", "prompt_name and input_type name different prompts; send one of them", param="input_type")
    return kind


def either(one: Value | None, other: Value | None, *, names: tuple[str, str]) -> Value | None:
    """What a request says by one of two names for the same.

    Raises:
        Refusal: it says two things.
    """
    if one is not None and other is not None and one != other:
        raise Refusal("invalid", f"{names[0]} and {names[1]} contradict each other; send one of them", param=names[1])
    return one if one is not None else other


async def embeddings(call: Call[EmbeddingsRequest]) -> Response:
    """Vectors of texts."""
    body = call.body
    model = call.service.models.find(body.model)
    body.user = ABSENT  # it would keep the whole body
    texts = [body.input] if isinstance(body.input, str) else body.input
    vectors, report = await work.encode(
        call,
        model,
        texts,
        param="input",
        normalize=either(body.normalize, body.normalized, names=("normalize", "normalized")),
        prompt_name=prompt_of(model, prompt_name=body.prompt_name, input_type=body.input_type),
        dimensions=either(body.dimensions, body.output_dimension, names=("dimensions", "output_dimension")),
        truncate=either(body.truncate, body.truncation, names=("truncate", "truncation")),
        truncation_side=either(
            truncation_side(body.truncation_direction),
            truncation_side(body.truncation_side),
            names=("truncation_direction", "truncation_side"),
        ),
    )
    item = _in_base64 if body.encoding_format == "base64" else _in_numbers
    data = await items(vectors, item, record=call.record)
    about: dict[str, Any] = {
        "object": "list",
        "model": body.model or model.name,
        "usage": {"prompt_tokens": report.input_tokens, "total_tokens": report.input_tokens},
    }
    if report.truncated:
        about["truncated"] = [cut.index for cut in report.truncated]
    return JsonResponse(with_items(about, "data", data))


def _in_numbers(index: int, row: Float32) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": row}


def _in_base64(index: int, row: Float32) -> dict[str, Any]:
    return {"object": "embedding", "index": index, "embedding": base64_of(row)}


async def models(call: Call[None]) -> Response:
    """The models that are served, by each name that they have."""
    data = [_model(model, name) for model in call.service.models.all for name in model.names]
    return JsonResponse({"object": "list", "data": data})


async def one_model(call: Call[None]) -> Response:
    """One of them."""
    asked = call.path["id"]
    if not asked:
        raise Refusal("unknown_path", "there is no '/v1/models/'; /v1/models lists the models")
    model = call.service.models.find(asked)
    return JsonResponse(_model(model, asked if asked in model.names else model.name))


def _model(model: ServedModel, name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": model.loaded_at, "owned_by": "cls-export"}


ENDPOINTS: tuple[Endpoint, ...] = (
    *(
        Endpoint(
            method="POST",
            path=path,
            summary="Vectors of texts, in the form of OpenAI's API",
            handle=embeddings,
            errors=error,
            body=EmbeddingsRequest,
            answer=EmbeddingsAnswer,
            tag="OpenAI",
        )
        for path in ("/v1/embeddings", "/embeddings")
    ),
    Endpoint(method="GET", path="/v1/models", summary="All served models", handle=models, errors=error, answer=Models, tag="OpenAI"),
    Endpoint(
        method="GET", path="/v1/models/{id:path}", summary="One served model", handle=one_model, errors=error, answer=Model, tag="OpenAI"
    ),
)
