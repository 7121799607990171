"""Cohere's rerank and embed, version 1 and 2."""

from __future__ import annotations

from cls_runtime.serving.endpoint import Endpoint

ENDPOINTS: tuple[Endpoint, ...] = ()
