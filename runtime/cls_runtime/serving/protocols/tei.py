"""text-embeddings-inference's endpoints, as huggingface_hub's InferenceClient and its other clients ask for them.

https://github.com/huggingface/text-embeddings-inference/blob/main/router/src/http/types.rs
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qs

import msgspec
from starlette.responses import Response

from cls_runtime import __version__
from cls_runtime.encoding.prompts import known_prompts
from cls_runtime.encoding.similarity import similarity
from cls_runtime.serving import work
from cls_runtime.serving.answers import JsonResponse, items
from cls_runtime.serving.bodies import OtherVectors, Side, refuse_other_vectors, truncation_side, value_of
from cls_runtime.serving.endpoint import Call, Endpoint, Handler
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.protocols.tei_tokens import DecodeRequest, Token, TokenizeRequest, decode, tokenize
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

_DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}


class EmbedRequest(OtherVectors, kw_only=True):
    """The body of POST /embed."""

    inputs: str | list[str]
    model: str | None = None
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None
    dimensions: int | None = None
    encoding_format: Literal["float"] | None = None
    parameters: dict[str, msgspec.Raw] | None = None


class Sentences(msgspec.Struct):
    """A sentence, and the sentences to compare it with."""

    source_sentence: str
    sentences: list[str]


class SimilarityParameters(OtherVectors, kw_only=True):
    """How the sentences are encoded."""

    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None


class SimilarityRequest(OtherVectors, kw_only=True):
    """The body of POST /similarity."""

    inputs: Sentences
    model: str | None = None
    parameters: SimilarityParameters | None = None


class Info(msgspec.Struct):
    """The answer of GET /info: TEI's fields, then those that identify the vectors."""

    model_id: str
    served_model_name: str
    model_sha: str | None
    model_dtype: str
    model_type: dict[str, dict[str, Any]]
    max_concurrent_requests: int | None
    max_input_length: int
    max_batch_tokens: int
    max_batch_requests: int | None
    max_client_batch_size: int
    auto_truncate: bool
    tokenization_workers: int
    version: str
    sha: str | None
    docker_label: str | None
    fingerprint: str
    variant: str
    engine: str
    dimensions: int
    prompts: list[str]
    models: list[str]


def error(refusal: Refusal) -> tuple[int, dict[str, Any]]:
    """A refusal as its clients read it."""
    kind = "Tokenizer" if refusal.code == "text_refused" else _TYPES.get(refusal.kind, "Validation")
    return _STATUS.get(refusal.kind, refusal.status), {"error": refusal.message, "error_type": kind}


async def embed(call: Call[EmbedRequest]) -> Response:
    """Vectors of texts."""
    body = call.body
    if body.parameters is not None and any(value_of(value) is not None for value in body.parameters.values()):
        raise Refusal("invalid", f"parameters has {_named(body.parameters)}; /embed takes its options next to inputs", param="parameters")
    vectors, _ = await work.encode(
        call,
        call.service.models.find(body.model),
        [body.inputs] if isinstance(body.inputs, str) else body.inputs,
        param="inputs",
        normalize=body.normalize is not False,
        prompt_name=body.prompt_name,
        dimensions=body.dimensions,
        truncate=body.truncate,
        truncation_side=truncation_side(body.truncation_direction),
    )
    return JsonResponse(await items(vectors, lambda _index, row: row, record=call.record))


async def compare(call: Call[SimilarityRequest]) -> Response:
    """How alike a sentence is with each of some others: the cosine, whatever the model was trained for, as all such servers give it."""
    given, how = call.body.inputs, call.body.parameters or SimilarityParameters()
    refuse_other_vectors(how)
    if not given.sentences:
        raise Refusal("empty", "inputs.sentences is an empty list; send at least one", param="inputs.sentences")
    vectors, _ = await work.encode(
        call,
        call.service.models.find(call.body.model),
        [given.source_sentence, *given.sentences],
        param="inputs",
        prompt_name=how.prompt_name,
        truncate=how.truncate,
        truncation_side=truncation_side(how.truncation_direction),
    )
    return JsonResponse(similarity(vectors[0], vectors[1:], function="cosine")[0])


async def info(call: Call[None]) -> Response:
    """What is served, and by what; of several bundles the one that `?model=` names."""
    asked = parse_qs(call.query.decode("latin-1")).get("model")
    model = call.service.models.find(asked[-1] if asked else None)
    options, manifest, about = call.service.options, model.encoder.manifest, model.encoder.info
    return JsonResponse(
        msgspec.json.encode(
            Info(
                model_id=manifest.source.name,
                served_model_name=model.name,
                model_sha=manifest.source.revision,
                model_dtype=_DTYPES.get(about.variant, about.variant),
                model_type=_model_type(model),
                max_concurrent_requests=None,
                max_input_length=manifest.max_length,
                max_batch_tokens=about.token_budget,
                max_batch_requests=None,
                max_client_batch_size=options.max_inputs,
                auto_truncate=options.on_overflow == "truncate",
                tokenization_workers=about.workers,
                version=__version__,
                sha=None,
                docker_label=None,
                fingerprint=model.fingerprint,
                variant=about.variant,
                engine=about.engine,
                dimensions=manifest.width("sentence"),
                prompts=list(known_prompts(manifest)),
                models=call.service.models.names,
            )
        )
    )


def _model_type(model: ServedModel) -> dict[str, dict[str, Any]]:
    """What TEI calls the kind of model, with what it says of that kind."""
    labels = model.labels
    if not labels:
        return {"embedding": {"pooling": model.encoder.manifest.pooling}}
    about = {
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
    }
    return {"reranker" if len(labels) == 1 else "classifier": about}


def _named(fields: Mapping[str, Any]) -> str:
    return ", ".join(sorted(fields))[:100]


def _endpoint(method: str, path: str, summary: str, handle: Handler, *, body: Any = None, answer: Any = None) -> Endpoint:
    return Endpoint(method=method, path=path, summary=summary, handle=handle, errors=error, body=body, answer=answer, tag="TEI")


ENDPOINTS: tuple[Endpoint, ...] = (
    _endpoint("POST", "/embed", "Vectors of texts", embed, body=EmbedRequest, answer=list[list[float]]),
    _endpoint("POST", "/similarity", "Similarity of a sentence to others", compare, body=SimilarityRequest, answer=list[float]),
    _endpoint("POST", "/tokenize", "The tokens of texts", tokenize, body=TokenizeRequest, answer=list[list[Token]]),
    _endpoint("POST", "/decode", "Texts from token ids", decode, body=DecodeRequest, answer=list[str]),
    _endpoint("GET", "/info", "What is served", info, answer=Info),
)
