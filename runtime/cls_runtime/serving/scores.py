"""What is made of a classifier's logits: scores, each label's or a pair's, and the order that they put documents in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cls_runtime.bundle.manifest import LogitsActivation
from cls_runtime.encoding.overflow import TruncationSide
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.scores import scores_of
from cls_runtime.serving import work
from cls_runtime.serving.endpoint import Call
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.refusal import Refusal


def activation_of(model: ServedModel) -> LogitsActivation:
    """What makes scores of a model's logits.

    What the bundle names, as sentence-transformers' CrossEncoder takes it from the checkpoint; where it names nothing, a sigmoid for one
    label. For several it is a softmax, also where the bundle has `identity`: a CrossEncoder has that where nobody said.
    """
    named = model.encoder.manifest.logits_activation
    if len(model.labels) > 1:
        return "softmax" if named in (None, "identity") else named
    return named or "sigmoid"


@dataclass(frozen=True)
class Ranking:
    """Documents by their score, the highest first; of two that are equal, the first first.

    Attributes:
        order: the documents' places in the request.
        scores: of each, in that order.
        report: what the Encoder did.
    """

    order: Sequence[int]
    scores: Sequence[float]
    report: EncodeReport


async def ranked(
    call: Call[Any],
    model: ServedModel,
    query: str,
    documents: Sequence[str],
    *,
    param: str,
    raw: bool = False,
    top_n: int | None = None,
    prompt_name: str | None = None,
    truncate: bool | None = None,
    truncation_side: TruncationSide | None = None,
) -> Ranking:
    """Scores each document beside the query, and sorts them.

    Args:
        call: the request.
        model: with one logit.
        query: the first text of each pair.
        documents: the second ones.
        param: the field that the documents stand in, for errors.
        raw: the logits are the scores.
        top_n: how many of them, at most; None for all.
        prompt_name: as of `work.encode`; so are `truncate` and `truncation_side`.

    Raises:
        Refusal: as `work.encode`; or the pairs, each with the query written out, are more than a body may have.
    """
    most = call.service.options.max_body_bytes
    if len(query) * len(documents) + sum(map(len, documents)) > most:
        raise Refusal(
            "too_large",
            f"a query of {len(query):,} characters beside {len(documents):,} {param} makes pairs of more than {most:,}; send fewer at once "
            "(--max-body)",
            param=param,
            code="body_too_large",
        )
    logits, report = await work.encode(
        call,
        model,
        [(query, document) for document in documents],
        param=param,
        output="logits",
        prompt_name=prompt_name,
        truncate=truncate,
        truncation_side=truncation_side,
    )
    scores = scores_of(logits, "identity" if raw else activation_of(model))[:, 0]
    order = np.argsort(-scores, kind="stable")[:top_n]
    return Ranking(order.tolist(), scores[order].tolist(), report)
