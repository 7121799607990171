"""The one way from a protocol to an Encoder: counted, admitted, computed within the deadline; what goes wrong is a Refusal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoding.overflow import TruncationSide
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.tokenizer import Text
from cls_runtime.errors import ClosedError, DeadlineError, InvalidVectorError, OverloadedError, TextError, TextTooLongError, UsageError
from cls_runtime.serving.endpoint import Call
from cls_runtime.serving.models import ServedModel
from cls_runtime.serving.refusal import Refusal

Float32 = NDArray[np.float32]


def check_inputs(call: Call[Any], count: int, *, param: str) -> None:
    """Counts a request's inputs.

    Raises:
        Refusal: there are none, or too many.
    """
    most = call.service.options.max_inputs
    if not count:
        raise Refusal("empty", f"{param} is an empty list, expected at least one text", param=param)
    if count > most:
        raise Refusal(
            "too_large",
            f"{param} has {count:,} texts, at most {most:,} are taken at once (--max-inputs)",
            param=param,
            code="too_many_inputs",
        )
    call.record.inputs += count


async def encode(
    call: Call[Any],
    model: ServedModel,
    texts: Sequence[Text],
    *,
    param: str,
    output: Output = "sentence",
    normalize: bool | None = None,
    prompt_name: str | None = None,
    dimensions: int | None = None,
    truncate: bool | None = None,
    truncation_side: TruncationSide | None = None,
) -> tuple[Float32, EncodeReport]:
    """Vectors float32 [n, width] of a request's n texts, and the report on them.

    Args:
        call: the request; its record takes in the inputs, the tokens and the time.
        model: whose vectors.
        texts: texts or pairs.
        param: the field of the body that they stand in, for errors.
        output: as of `Encoder.encode`; so are `normalize`, `prompt_name` and `dimensions`, here one of the sizes that the bundle lists.
        truncate: whether texts that are too long are cut; None as the server was told.
        truncation_side: `left` or `right`; None for the tokenizer's own.

    Raises:
        Refusal: for every reason there is.
    """
    record, service = call.record, call.service
    record.model, record.fingerprint = model.name, model.fingerprint
    check_inputs(call, len(texts), param=param)
    if dimensions is not None:
        check_dimensions(model, dimensions)
    service.admission.check(len(texts))
    began = time.perf_counter()
    try:
        vectors, report = await model.encoder.aencode_with_report(
            texts,
            output=output,
            normalize=normalize,
            prompt_name=prompt_name if prompt_name is not None else service.options.prompt_name if output == "sentence" else None,
            dimensions=dimensions,
            on_overflow=None if truncate is None else "truncate" if truncate else "raise",
            truncation_side=truncation_side,
            timeout_s=max(1e-3, service.options.deadline_s - (began - record.started_s)),
        )
    except Exception as error:
        raise _refusal(error, param) from error
    record.add(report)
    return vectors, report


def check_dimensions(model: ServedModel, dimensions: int) -> None:
    """Holds a size to those that the bundle lists; others were not trained for.

    Raises:
        Refusal: it is none of them.
    """
    manifest = model.encoder.manifest
    width = manifest.width("sentence")
    sizes = sorted({width, *manifest.matryoshka_dims, *(() if manifest.truncate_dim is None else (manifest.truncate_dim,))})
    if dimensions not in sizes:
        listed = ", ".join(map(str, sizes))
        raise Refusal(
            "invalid", f"dimensions is {dimensions}, {model.name} has {listed}; ask for one of these or leave it out", param="dimensions"
        )


def _refusal(error: Exception, param: str) -> Exception:
    """What a request gets for an error of its Encoder; what is no one's fault but ours stays as it is, and becomes a 500."""
    if isinstance(error, TextTooLongError):
        return Refusal("invalid", f"{param}: {error}", param=param, code="context_length_exceeded")
    if isinstance(error, (TextError, TypeError)):
        return Refusal("invalid", f"{param}: {error}", param=param)
    if isinstance(error, UsageError):
        return Refusal("invalid", str(error), param="prompt_name" if "prompt_name" in str(error) else None)
    if isinstance(error, OverloadedError):
        return Refusal("overloaded", str(error), code="overloaded", retry_after_s=1)
    if isinstance(error, DeadlineError):
        return Refusal("late", str(error), code="deadline_exceeded", retry_after_s=1)
    if isinstance(error, ClosedError):
        return Refusal("draining", "the server is ending; try another", retry_after_s=1)
    if isinstance(error, InvalidVectorError):
        return Refusal("failed", f"the model gave a vector that is none: {error}")
    return error
