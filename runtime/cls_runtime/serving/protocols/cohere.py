"""Cohere's embed, version 1 and 2. Its rerank is in `rerank`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from cls_runtime.encoding.overflow import TruncationSide
from cls_runtime.encoding.quantizing import quantized
from cls_runtime.encoding.vector_options import WITH_RANGES
from cls_runtime.errors import ClsError
from cls_runtime.serving import work
from cls_runtime.serving.answers import JsonResponse, Written, base64_of, items, numbers_of, with_arrays
from cls_runtime.serving.bodies import OtherVectors
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.protocols import openai
from cls_runtime.serving.protocols.rerank import Meta, check_most_tokens, meta_of
from cls_runtime.serving.refusal import Refusal

Float32 = NDArray[np.float32]
EmbeddingType = Literal["float", "int8", "uint8", "binary", "ubinary", "base64"]


class Content(msgspec.Struct):
    """A part of an input."""

    type: Literal["text"]
    text: str


class Input(msgspec.Struct):
    """An input in parts; exactly one is allowed."""

    content: list[Content]


class CohereEmbedRequest(OtherVectors, kw_only=True):
    """The body of POST /v1/embed and /v2/embed."""

    texts: list[str] | None = None
    inputs: list[Input] | None = None
    model: str | None = None
    input_type: str | None = None
    prompt_name: str | None = None
    embedding_types: Annotated[list[EmbeddingType], msgspec.Meta(min_length=1)] | None = None
    output_dimension: int | None = None
    truncate: Literal["NONE", "START", "END"] | None = None
    max_tokens: int | None = None


class EmbeddingsByType(msgspec.Struct, omit_defaults=True):
    """The vectors of all texts, once per requested type."""

    floats: list[list[float]] | None = msgspec.field(default=None, name="float")
    int8: list[list[int]] | None = None
    uint8: list[list[int]] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None
    base64: list[str] | None = None


class EmbedAnswer(msgspec.Struct, omit_defaults=True):
    """The answer of POST /v2/embed; `truncated` lists the texts that were cut, if any."""

    id: str
    texts: list[str]
    meta: Meta
    embeddings: EmbeddingsByType
    response_type: Literal["embeddings_by_type"]
    truncated: list[int] = []


class EmbedV1Answer(msgspec.Struct, omit_defaults=True):
    """The answer of POST /v1/embed: a list of vectors, or one list per requested type."""

    id: str
    texts: list[str]
    meta: Meta
    embeddings: list[list[float]] | EmbeddingsByType
    response_type: Literal["embeddings_floats", "embeddings_by_type"]
    truncated: list[int] = []


async def embed(call: Call[CohereEmbedRequest]) -> Response:
    """Vectors of texts by version 2 of the API."""
    return await _embed(call, call.body.embedding_types or ("float",), version="2")


async def embed_v1(call: Call[CohereEmbedRequest]) -> Response:
    """Vectors of texts by version 1: a list of them where no types are asked for."""
    return await _embed(call, call.body.embedding_types, version="1")


async def _embed(call: Call[CohereEmbedRequest], types: Sequence[EmbeddingType] | None, *, version: str) -> Response:
    """Vectors, computed once, as each of `types`; None for a list of numbers alone."""
    body = call.body
    model = call.service.models.find(body.model)
    texts, param = _texts_of(body)
    check_most_tokens(model, body.max_tokens, param="max_tokens")
    if body.output_dimension is not None:
        work.check_dimensions(model, body.output_dimension, param="output_dimension")
    sides: dict[str, TruncationSide] = {"START": "left", "END": "right"}
    vectors, report = await work.encode(
        call,
        model,
        texts,
        param=param,
        prompt_name=openai.prompt_of(model, prompt_name=body.prompt_name, input_type=body.input_type),
        dimensions=body.output_dimension,
        truncate=None if body.truncate is None else body.truncate != "NONE",
        truncation_side=None if body.truncate is None else sides.get(body.truncate),
    )
    if types is None:
        embeddings = await _as_type(call, vectors, "float", None)
    else:
        ranges = await _ranges(model, body.output_dimension) if not set(types).isdisjoint(WITH_RANGES) else None
        embeddings = with_arrays({}, {kind: await _as_type(call, vectors, kind, ranges) for kind in dict.fromkeys(types)})
    about: dict[str, Any] = {
        "id": call.record.id,
        "response_type": "embeddings_floats" if types is None else "embeddings_by_type",
        "meta": msgspec.to_builtins(meta_of(model, report, version=version)),
    }
    if report.truncated:
        about["truncated"] = [item.index for item in report.truncated]
    written = await items(texts, lambda _, text: text, record=call.record, numbers_a_row=numbers_of(texts))
    return JsonResponse(with_arrays(about, {"texts": written, "embeddings": embeddings}))


def _texts_of(body: CohereEmbedRequest) -> tuple[list[str], str]:
    """The texts, and the name of the field that they are in.

    Raises:
        Refusal: they are in both or neither, or an input has other than one part.
    """
    if (body.texts is None) == (body.inputs is None):
        raise Refusal("malformed", "the body must have either texts or inputs, and not both", param="texts")
    if body.texts is not None:
        return body.texts, "texts"
    inputs = body.inputs or []
    wrong = next((place for place, given in enumerate(inputs) if len(given.content) != 1), None)
    if wrong is not None:
        raise Refusal("invalid", f"inputs[{wrong}] has {len(inputs[wrong].content)} parts, expected one text", param="inputs")
    return [given.content[0].text for given in inputs], "inputs"


async def _ranges(model: ServedModel, dimensions: int | None) -> Float32:
    """What int8 and uint8 divide into steps: the bundle's own ranges, which are read from a file the first time.

    Raises:
        Refusal: the bundle has none.
    """
    try:
        return await asyncio.to_thread(model.encoder.ranges, dimensions=dimensions)
    except ClsError as error:
        raise Refusal("unsupported", f"embedding_types: {model.name} has no int8 and uint8 ({error})", param="embedding_types") from error


async def _as_type(call: Call[Any], vectors: Float32, kind: EmbeddingType, ranges: Float32 | None) -> Written:
    """A JSON array of the vectors."""
    if kind == "base64":
        return await items(vectors, lambda _, row: base64_of(row), record=call.record)
    if kind != "float":
        vectors = await asyncio.to_thread(quantized, vectors, kind, ranges=ranges)
    return await items(vectors, lambda _, row: row, record=call.record)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v2/embed",
        summary="Vectors of texts, in the form of Cohere's API",
        handle=embed,
        errors=openai.error,
        body=CohereEmbedRequest,
        answer=EmbedAnswer,
        tag="Cohere and Jina",
    ),
    Endpoint(
        method="POST",
        path="/v1/embed",
        summary="Vectors of texts, in the form of version 1 of Cohere's API",
        handle=embed_v1,
        errors=openai.error,
        body=CohereEmbedRequest,
        answer=EmbedV1Answer,
        tag="Cohere and Jina",
    ),
)
