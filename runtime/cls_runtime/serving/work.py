"""The one way from a protocol to an Encoder: counted, admitted, computed within the deadline; what goes wrong is a Refusal."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import Output
from cls_runtime.encoding.overflow import TruncationSide
from cls_runtime.encoding.prompts import known_prompts
from cls_runtime.encoding.report import EncodeReport
from cls_runtime.encoding.texts import Text
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
        raise Refusal("empty", f"{param} is an empty list; send at least one", param=param)
    if count > most:
        raise Refusal(
            "too_large",
            f"{param} has {count:,} items, at most {most:,} per request are allowed (--max-inputs)",
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
    if output not in model.encoder.outputs:
        raise Refusal("unsupported", f"{model.name} has no {output}; it has {', '.join(model.encoder.outputs)}")
    if dimensions is not None:
        check_dimensions(model, dimensions)
    prompt_name = prompt_of(call, model, prompt_name, output=output)
    if (stalled := service.stalled(model.encoder)) is not None:
        raise stalled
    service.admission.check(len(texts), model.encoder)
    began = time.perf_counter()
    try:
        vectors, report = await model.encoder.aencode_with_report(
            texts,
            output=output,
            normalize=normalize,
            prompt_name=prompt_name,
            dimensions=dimensions,
            on_overflow=None if truncate is None else "truncate" if truncate else "raise",
            truncation_side=truncation_side,
            timeout_s=max(1e-3, service.options.deadline_s - (began - record.started_s)),
        )
    except Exception as error:
        refusal = refusal_of(error, param=param)
        if refusal is error:
            raise
        raise refusal from error
    record.add(report)
    return vectors, report


def prompt_of(call: Call[Any], model: ServedModel, prompt_name: str | None, *, output: Output = "sentence") -> str | None:
    """The name of the prompt that goes before a request's texts: its own, or the server's; None for the model's default.

    Raises:
        Refusal: the bundle has no prompt of that name, or has left out of its graph how the model reads one.
    """
    if prompt_name is None and output == "sentence":
        prompt_name = call.service.options.prompt_name
    manifest = model.encoder.manifest
    if prompt_name is not None:
        prompts = known_prompts(manifest)
        if prompt_name not in prompts:
            raise Refusal(
                "invalid",
                f"prompt_name is {prompt_name[:100]!r}, {model.name} has {', '.join(prompts)}; name one of these or leave it out",
                param="prompt_name",
            )
        if prompts[prompt_name] and not manifest.source_pooling.include_prompt and not manifest.leaves_prompt_out:
            raise Refusal("unsupported", f"{model.name} was exported without the data its prompts need; leave prompt_name out")
    return prompt_name


def check_dimensions(model: ServedModel, dimensions: int, *, param: str = "dimensions") -> None:
    """Holds a size, which stands in the field `param`, to those that the bundle lists; others were not trained for.

    Raises:
        Refusal: it is none of them.
    """
    manifest = model.encoder.manifest
    width = manifest.width("sentence")
    sizes = sorted({width, *manifest.matryoshka_dims, *(() if manifest.truncate_dim is None else (manifest.truncate_dim,))})
    if dimensions not in sizes:
        listed = ", ".join(map(str, sizes))
        found = dimensions if abs(dimensions) < 10**9 else "far too large"
        raise Refusal("invalid", f"{param} is {found}, {model.name} has {listed}; ask for one of these or leave it out", param=param)


def refusal_of(error: Exception, *, param: str) -> Exception:
    """What a request gets for an error of its Encoder; what is no one's fault but ours stays as it is, and becomes a 500."""
    if isinstance(error, TextTooLongError):
        found = str(error).partition(";")[0]
        return Refusal(
            "invalid", f"{param}: {found}; shorten or split it, or allow truncation (truncate)", param=param, code="context_length_exceeded"
        )
    if isinstance(error, TextError):
        return Refusal("invalid", f"{param}: {error}", param=param, code="text_refused")
    if isinstance(error, (UsageError, TypeError)):
        return Refusal("invalid", f"{param}: {error}", param=param)
    if isinstance(error, OverloadedError):
        return Refusal("overloaded", str(error), code="overloaded", retry_after_s=1)
    if isinstance(error, DeadlineError):
        return Refusal("late", "the request was not computed within --deadline; try again later", code="deadline_exceeded", retry_after_s=1)
    if isinstance(error, ClosedError):
        return Refusal("draining", "the server is shutting down; try another replica", retry_after_s=1)
    if isinstance(error, InvalidVectorError):
        return Refusal("failed", f"the model computed an invalid vector: {error}")
    return error
