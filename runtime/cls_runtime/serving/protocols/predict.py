"""A classifier's predictions, as the clients of text-embeddings-inference and huggingface_hub's InferenceClient ask for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray
from starlette.responses import Response

from cls_runtime.bundle.manifest import LogitsActivation
from cls_runtime.encoding.texts import Text
from cls_runtime.serving import work
from cls_runtime.serving.answers import JsonResponse, items
from cls_runtime.serving.bodies import OtherVectors, Side, truncation_side
from cls_runtime.serving.endpoint import Call, Endpoint
from cls_runtime.serving.protocols import tei
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.scores import activation_of, scores_of

_FUNCTIONS: Mapping[str, LogitsActivation] = {"sigmoid": "sigmoid", "softmax": "softmax", "none": "identity"}


class PredictParameters(msgspec.Struct):
    """What InferenceClient sends besides the text."""

    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None
    top_k: Annotated[int, msgspec.Meta(ge=1)] | None = None


class PredictRequest(OtherVectors, kw_only=True):
    """The body of POST /predict: a text, a pair `[text, text]`, or a batch of both, each in its own list: `[[text], [text, text]]`.

    Bodies with more empty lists are refused unread.
    """

    most_empty_lists: ClassVar[int] = 2**16

    inputs: str | list[str | list[str]]
    model: str | None = None
    raw_scores: bool | None = None
    truncate: bool | None = None
    truncation_direction: Side | None = None
    prompt_name: str | None = None
    parameters: PredictParameters | None = None


class Prediction(msgspec.Struct):
    """A label and its score."""

    label: str
    score: float


def texts_of(inputs: str | list[str | list[str]]) -> tuple[list[Text], bool]:
    """The texts and pairs of a body, and whether they are a batch.

    >>> texts_of(["a", "b"]), texts_of([["a"], ["b", "c"]])
    (([('a', 'b')], False), (['a', ('b', 'c')], True))

    Raises:
        Refusal: a list has other than one text or two.
    """
    if isinstance(inputs, str):
        return [inputs], False
    if inputs and all(isinstance(item, str) for item in inputs):
        return [_text_of(inputs)], False
    return [item if isinstance(item, str) else _text_of(item) for item in inputs], True


def _text_of(parts: Sequence[object]) -> Text:
    if len(parts) == 1:
        return str(parts[0])
    if len(parts) == 2:
        return str(parts[0]), str(parts[1])
    raise Refusal(
        "invalid",
        f"inputs has a list of {len(parts)} strings, expected one (a text) or two (a pair); a batch is [[text], [text, second text], ...]",
        param="inputs",
    )


async def predict(call: Call[PredictRequest]) -> Response:
    """Predictions of one text, or of each of a batch."""
    texts, is_batch = texts_of(call.body.inputs)
    return await _predict(call, texts, nested=is_batch)


async def predict_nested(call: Call[PredictRequest]) -> Response:
    """The same in a list also for one text, where InferenceClient looks for it."""
    texts, _ = texts_of(call.body.inputs)
    return await _predict(call, texts, nested=True)


async def _predict(call: Call[PredictRequest], texts: Sequence[Text], *, nested: bool) -> Response:
    """Of each text the labels with their scores, the highest first; of one text in no further list where `nested` does not ask for it."""
    body, asked = call.body, call.body.parameters or PredictParameters()
    model = call.service.models.find(body.model, needs="logits")
    logits, _ = await work.encode(
        call,
        model,
        texts,
        param="inputs",
        output="logits",
        prompt_name=body.prompt_name,
        truncate=body.truncate,
        truncation_side=truncation_side(body.truncation_direction),
    )
    activation: LogitsActivation = "identity" if body.raw_scores else activation_of(model)
    if asked.function_to_apply is not None:
        activation = _FUNCTIONS[asked.function_to_apply]
    scores, labels = scores_of(logits, activation), model.labels
    orders = np.argsort(-scores, axis=1, kind="stable")[:, : asked.top_k]

    def of_text(index: int, order: NDArray[np.intp]) -> list[dict[str, Any]]:
        row = scores[index]
        return [{"label": labels[place], "score": row[place]} for place in order.tolist()]

    if not nested:
        return JsonResponse(of_text(0, orders[0]))
    return JsonResponse(await items(orders, of_text, record=call.record, numbers_a_row=4 * orders.shape[1]))


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/predict",
        summary="A classifier's labels and scores for a text, a pair, or a batch of them",
        handle=predict,
        errors=tei.error,
        body=PredictRequest,
        answer=list[Prediction | list[Prediction]],
        tag="TEI",
    ),
)
