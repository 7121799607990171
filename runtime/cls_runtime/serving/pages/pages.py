"""What people read: the start page, /docs, and the document that it is made of."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import cache
from typing import Any

from starlette.responses import Response

from cls_runtime.serving.answers import JsonResponse
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.openapi import document
from cls_runtime.serving.pages.docs_page import docs_page
from cls_runtime.serving.pages.page import MEDIA_TYPE
from cls_runtime.serving.pages.start_page import start_page
from cls_runtime.serving.protocols.openai import error


def endpoints(others: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    """The endpoints of the pages, which describe the others and themselves."""

    @cache
    def described(keys: bool) -> dict[str, Any]:
        return document((*others, *own), keys=keys)

    @cache
    def as_json(keys: bool) -> bytes:
        return bytes(JsonResponse(described(keys)).body)

    @cache
    def as_page(keys: bool) -> Response:
        return docs_page(described(keys))

    # Each takes some 20 ms, once, which no other request shall wait for.
    async def openapi(call: Call[None]) -> Response:
        return JsonResponse(await asyncio.to_thread(as_json, _keys(call)))

    async def docs(call: Call[None]) -> Response:
        return await asyncio.to_thread(as_page, _keys(call))

    async def start(call: Call[None]) -> Response:
        return start_page(call.service.models.all, keys=_keys(call))

    own = tuple(
        Endpoint(method="GET", path=path, summary=summary, handle=handle, errors=error, answer=answer, tag="Pages", needs_key=False)
        for path, summary, handle, answer in (
            ("/openapi.json", "This description, for programs", openapi, dict[str, Any]),
            ("/docs", "This description, for people", docs, MEDIA_TYPE),
            ("/", "The start page: served models, and a form to try them", start, MEDIA_TYPE),
        )
    )
    return own


def _keys(call: Call[None]) -> bool:
    return call.service.options.api_key_file is not None
