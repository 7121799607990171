"""An embedding endpoint in a FastAPI service.

    BUNDLE=models/bge-small-en-v1.5 uvicorn service:app
    curl localhost:8000/embed -H 'content-type: application/json' -d '{"texts": ["a text", "another"]}'

One process and one event loop are enough: `aencode` computes requests that arrive together in shared batches, on the encoder's own threads.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import FastAPI, HTTPException, Request
from pydantic import BaseModel, Field

from cls_runtime import DeadlineError, Encoder, OverloadedError, TextError

MAX_TEXTS = 64
DEADLINE_S = 5.0


class EmbedRequest(BaseModel):
    """Texts, and what they are: a search's query gets the prompt that the model was trained with for queries."""

    texts: Annotated[list[str], Field(max_length=MAX_TEXTS)]
    kind: Literal["query", "document"] = "document"


class EmbedResponse(BaseModel):
    """One vector for each text, in the order of the texts. `truncated` has the indices of texts that were longer than the model takes."""

    vectors: list[list[float]]
    truncated: list[int]


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Loads the model before the first request, and waits for running batches at the end."""
    if not (bundle := os.environ.get("BUNDLE")):
        raise RuntimeError("the environment variable BUNDLE is not set; set it to a bundle's folder, such as models/bge-small-en-v1.5")
    with Encoder.load(bundle, max_waiting_texts=1024, on_overflow="truncate") as encoder:
        app.state.encoder = encoder
        yield


app = FastAPI(title="Embeddings", lifespan=lifespan)


@app.post("/embed")
async def embed(body: EmbedRequest, request: Request) -> EmbedResponse:
    """Vectors of texts."""
    encoder: Encoder = request.app.state.encoder
    try:
        rows, report = await encoder.aencode_with_report(body.texts, prompt_name=body.kind, timeout_s=DEADLINE_S)
    except OverloadedError as error:
        raise HTTPException(429, str(error), headers={"Retry-After": "1"}) from error
    except DeadlineError as error:
        raise HTTPException(504, str(error)) from error
    except TextError as error:
        raise HTTPException(422, str(error)) from error
    return EmbedResponse(vectors=rows.tolist(), truncated=[item.index for item in report.truncated])


@app.get("/healthz")
async def healthz(request: Request) -> dict[str, str]:
    """Which model answers; its fingerprint changes with its vectors."""
    manifest = request.app.state.encoder.manifest
    return {"model": manifest.source.name, "fingerprint": manifest.fingerprint}
