"""Reranking, as the clients of text-embeddings-inference, of Jina and of Cohere (version 1 and 2) ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from starlette.responses import Response

from cls_runtime.encoding.report import EncodeReport
from cls_runtime.serving.answers import JsonResponse, Written, items, numbers_of, with_items
from cls_runtime.serving.bodies import ABSENT, OtherVectors, Side, truncation_side, value_of
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.protocols import openai, tei
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.scores import Ranking, ranked

Count = Annotated[int, msgspec.Meta(ge=1)]


class Document(msgspec.Struct):
    """A document with fields; only its text is read."""

    text: str


class RerankRequest(OtherVectors, kw_only=True):
    """The body of POST /v1/rerank and /v2/rerank.

    `truncation` is Voyage's and Jina's `truncate`, `truncation_side` vLLM's name for TEI's `truncation_direction`. The fields from
    `rank_fields` on may ask for other scores; they are accepted only where they ask for what the server does anyway.
    """

    query: str
    documents: list[str | Document]
    model: str | None = None
    top_n: Count | None = None
    return_documents: bool | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None
    truncation: bool | None = None
    truncation_direction: Side | None = None
    truncation_side: Side | None = None
    prompt_name: str | None = None
    rank_fields: list[str] | None = None
    max_chunks_per_doc: int | None = None
    max_tokens_per_doc: int | None = None
    max_tokens_per_query: msgspec.Raw = ABSENT
    relevant_spans: msgspec.Raw = ABSENT


class RankRequest(RerankRequest, kw_only=True):
    """The body of POST /rerank: with `texts` it is TEI's, with `documents` Jina's and Cohere's."""

    documents: list[str | Document] | None = None  # type: ignore[assignment]
    texts: list[str] | None = None
    return_text: bool | None = None


class Rank(msgspec.Struct, omit_defaults=True):
    """One text in TEI's answer."""

    index: int
    score: float
    text: str | None = None


class RerankResult(msgspec.Struct, omit_defaults=True):
    """One document in Jina's or Cohere's answer."""

    index: int
    relevance_score: float
    document: Document | None = None


class ApiVersion(msgspec.Struct):
    """The version of Cohere's API."""

    version: str


class BilledUnits(msgspec.Struct, omit_defaults=True):
    """What Cohere would bill."""

    input_tokens: int | None = None
    search_units: int | None = None


class TokenCount(msgspec.Struct):
    """The tokens of a request, special tokens included."""

    input_tokens: int


class Meta(msgspec.Struct, omit_defaults=True):
    """Cohere's metadata; `warnings` says whether texts were cut."""

    api_version: ApiVersion
    billed_units: BilledUnits
    tokens: TokenCount
    warnings: list[str] = []


class RerankAnswer(msgspec.Struct, omit_defaults=True):
    """The answer of POST /v1/rerank and /v2/rerank; `truncated` lists the documents that were cut, if any."""

    id: str
    model: str
    results: list[RerankResult]
    usage: openai.Usage
    meta: Meta
    truncated: list[int] = []


def meta_of(model: ServedModel, report: EncodeReport, *, version: str, searches: int | None = None) -> Meta:
    """Cohere's `meta` for what the Encoder did."""
    warnings = []
    if report.truncated:
        cut, length = len(report.truncated), model.encoder.manifest.max_length
        warnings = [f"{cut} of {report.texts} texts have more than the {length} tokens that the model takes, and were cut"]
    billed = BilledUnits(search_units=searches) if searches else BilledUnits(input_tokens=report.input_tokens)
    return Meta(ApiVersion(version), billed, TokenCount(report.input_tokens), warnings)


def check_most_tokens(model: ServedModel, most: int | None, *, param: str) -> None:
    """Refuses a limit on a text's tokens that is below the model's own, which would make other scores or vectors.

    Raises:
        Refusal: it is.
    """
    length = model.encoder.manifest.max_length
    if most is not None and most < length:
        raise Refusal("invalid", f"{param} is {most}, {model.name} cuts texts at {length} tokens; leave it out", param=param)


async def rerank(call: Call[RerankRequest]) -> Response:
    """Documents by their relevance to a query, as Jina and version 1 of Cohere's API give them."""
    return await _rerank(call, call.body, version="1")


async def rerank_v2(call: Call[RerankRequest]) -> Response:
    """The same by version 2 of Cohere's API."""
    return await _rerank(call, call.body, version="2")


async def rank(call: Call[RankRequest]) -> Response:
    """Texts or documents by their relevance to a query, in the form that the body is in."""
    body = call.body
    if (body.texts is None) == (body.documents is None):
        raise Refusal("malformed", "the body must have either texts or documents, and not both", param="texts")
    if body.texts is None:
        return await _rerank(call, body, version="1")
    _, found = await _ranked(call, body, body.texts, param="texts")
    return JsonResponse(await _written(call, found, body.texts if body.return_text else None, _rank))


async def _rerank(call: Call[Any], body: RerankRequest, *, version: str) -> Response:
    """Jina's and Cohere's answer."""
    documents = [document if isinstance(document, str) else document.text for document in body.documents]
    model, found = await _ranked(call, body, documents, param="documents")
    tokens = found.report.input_tokens
    about: dict[str, Any] = {
        "id": call.record.id,
        "model": body.model or model.name,
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "meta": msgspec.to_builtins(meta_of(model, found.report, version=version, searches=1)),
    }
    if found.report.truncated:
        about["truncated"] = [item.index for item in found.report.truncated]
    results = await _written(call, found, documents if body.return_documents else None, _result)
    return JsonResponse(with_items(about, "results", results))


async def _written(
    call: Call[Any], found: Ranking, texts: Sequence[str] | None, item: Callable[[int, float, str | None], dict[str, Any]]
) -> Written:
    """The JSON array of a ranking, with its texts where they are given."""

    def of_place(_: int, ranked: tuple[int, float]) -> dict[str, Any]:
        index, score = ranked
        return item(index, score, None if texts is None else texts[index])

    rows = list(zip(found.order, found.scores, strict=True))
    return await items(rows, of_place, record=call.record, numbers_a_row=3 + numbers_of(texts or ()))


def _rank(index: int, score: float, text: str | None) -> dict[str, Any]:
    return {"index": index, "score": score} if text is None else {"index": index, "score": score, "text": text}


def _result(index: int, score: float, text: str | None) -> dict[str, Any]:
    result: dict[str, Any] = {"index": index, "relevance_score": score}
    return result if text is None else result | {"document": {"text": text}}


async def _ranked(call: Call[Any], body: RerankRequest, documents: Sequence[str], *, param: str) -> tuple[ServedModel, Ranking]:
    """The model that a body names, or the first that can, and the documents in its order."""
    model = call.service.models.find(body.model, needs="score")
    _refuse_other_scores(body, model)
    found = await ranked(
        call,
        model,
        body.query,
        documents,
        param=param,
        raw=bool(body.raw_scores),
        top_n=body.top_n,
        prompt_name=body.prompt_name,
        truncate=openai.either(body.truncate, body.truncation, names=("truncate", "truncation")),
        truncation_side=openai.either(
            truncation_side(body.truncation_direction),
            truncation_side(body.truncation_side),
            names=("truncation_direction", "truncation_side"),
        ),
    )
    return model, found


def _refuse_other_scores(body: RerankRequest, model: ServedModel) -> None:
    """Refuses what would make other scores than those of whole documents.

    Raises:
        Refusal: it names the field.
    """
    check_most_tokens(model, body.max_tokens_per_doc, param="max_tokens_per_doc")
    other: dict[str, Any] = {
        "rank_fields": body.rank_fields if body.rank_fields != ["text"] else None,
        "max_chunks_per_doc": body.max_chunks_per_doc if body.max_chunks_per_doc != 1 else None,
        "max_tokens_per_query": value_of(body.max_tokens_per_query),
        "relevant_spans": value_of(body.relevant_spans),
    }
    for name, value in other.items():
        if value is not None:
            raise Refusal("invalid", f"{name} asks for scores that this server does not compute; leave it out", param=name)


Ranks = list[Rank]

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/rerank",
        summary="Texts ranked by relevance to a query, in the form of TEI; or documents, in that of Jina and Cohere",
        handle=rank,
        errors=tei.error,
        body=RankRequest,
        answer=Ranks | RerankAnswer,
        tag="TEI",
    ),
    *(
        Endpoint(
            method="POST",
            path=path,
            summary="Documents ranked by relevance to a query",
            handle=handle,
            errors=openai.error,
            body=RerankRequest,
            answer=RerankAnswer,
            tag="Cohere and Jina",
        )
        for path, handle in (("/v1/rerank", rerank), ("/v2/rerank", rerank_v2))
    ),
)
