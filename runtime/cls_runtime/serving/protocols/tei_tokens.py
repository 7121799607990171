"""What text-embeddings-inference does with a tokenizer alone: the tokens of texts, and the texts of token ids."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, cast

import msgspec
from starlette.responses import Response

from cls_runtime.encoding.prompts import known_prompts
from cls_runtime.encoding.text_tokens import TextTokens
from cls_runtime.encoding.tokenizer import LONG_CHARACTERS
from cls_runtime.errors import ClosedError, TextError
from cls_runtime.serving import work
from cls_runtime.serving.answers import JsonResponse, Written
from cls_runtime.serving.endpoint import Call
from cls_runtime.serving.refusal import Refusal

# Of one request to /tokenize or /decode. Each takes some hundred bytes while it is in the tokenizer, and as many in the answer.
MOST_CHARACTERS = LONG_CHARACTERS[-1]
MOST_IDS = 2**18
# Of fewer, the tokenizer is quicker than another thread is told to use it.
_FEW = 1024
# So many characters or ids at a time, so that none of them holds up the event loop and its neighbours for long.
_BLOCK = 2**14
# What a text or a list takes beside its characters or ids is about as much as so many of them.
_EACH = 32


class TokenizeRequest(msgspec.Struct, kw_only=True):
    """The body of POST /tokenize."""

    inputs: str | list[str]
    model: str | None = None
    add_special_tokens: bool | None = None
    prompt_name: str | None = None


class Token(msgspec.Struct):
    """A token and its place in the text in characters; a special token has none."""

    id: int
    text: str
    special: bool
    start: int | None
    stop: int | None


class DecodeRequest(msgspec.Struct, kw_only=True):
    """The body of POST /decode; bodies with more commas or empty lists are refused unread."""

    most_commas: ClassVar[int] = 2 * MOST_IDS
    most_empty_lists: ClassVar[int] = 2**16

    ids: list[int | list[int]]
    model: str | None = None
    skip_special_tokens: bool | None = None


async def tokenize(call: Call[TokenizeRequest]) -> Response:
    """All tokens of texts, also those that the model does not take."""
    body = call.body
    model = call.service.models.find(body.model)
    call.record.model, call.record.fingerprint = model.name, model.fingerprint
    texts = [body.inputs] if isinstance(body.inputs, str) else body.inputs
    work.check_inputs(call, len(texts), param="inputs")
    total = sum(map(len, texts))
    if total > MOST_CHARACTERS:
        raise Refusal("too_large", f"inputs have {total:,} characters, at most {MOST_CHARACTERS:,} per request are allowed", param="inputs")
    name = work.prompt_of(call, model, body.prompt_name)
    manifest = model.encoder.manifest
    prompt = manifest.default_prompt if name is None else known_prompts(manifest)[name]
    bare = body.add_special_tokens is False

    def written(start: int, stop: int) -> bytes:
        part = texts[start:stop]
        found = model.encoder.tokens(part, prompt=prompt, whole=True)
        return msgspec.json.encode([_tokens(of, prompt + text, bare=bare) for of, text in zip(found, part, strict=True)])

    return JsonResponse(await _in_turn(call, [_EACH + len(prompt) + len(text) for text in texts], written, param="inputs"))


async def decode(call: Call[DecodeRequest]) -> Response:
    """Texts of token ids."""
    body = call.body
    model = call.service.models.find(body.model)
    call.record.model, call.record.fingerprint = model.name, model.fingerprint
    if all(isinstance(item, int) for item in body.ids):
        given = [cast("list[int]", body.ids)] if body.ids else []
    elif all(isinstance(item, list) for item in body.ids):
        given = cast("list[list[int]]", body.ids)
    else:
        raise Refusal("malformed", "ids mixes numbers and lists, expected only one of them", param="ids")
    work.check_inputs(call, len(given), param="ids")
    total = sum(map(len, given))
    if total > MOST_IDS:
        raise Refusal("too_large", f"ids has {total:,} ids, at most {MOST_IDS:,} per request are allowed", param="ids")
    skip = body.skip_special_tokens is not False

    def written(start: int, stop: int) -> bytes:
        return msgspec.json.encode(model.encoder.decode(given[start:stop], skip_special_tokens=skip))

    return JsonResponse(await _in_turn(call, [_EACH + len(item) for item in given], written, param="ids"))


def _tokens(found: TextTokens, text: str, *, bare: bool) -> list[Token]:
    """A text's tokens; with `bare` without those that the tokenizer adds."""
    return [
        Token(number, token, True, None, None) if special else Token(number, text[start:stop], False, start, stop)
        for number, token, special, (start, stop) in zip(found.ids, found.tokens, found.special, found.offsets, strict=True)
        if not (special and bare)
    ]


async def _in_turn(call: Call[Any], sizes: Sequence[int], written: Callable[[int, int], bytes], *, param: str) -> Written:
    """A JSON array made of `written(start, stop)`, which is a part of it, of items of these sizes: a few at once, others on a thread."""
    if sum(sizes) <= _FEW:
        return Written((_made(written, 0, len(sizes), param),))
    parts: list[bytes] = []
    start = held = 0
    for place, size in enumerate(sizes, start=1):
        held += size
        if held >= _BLOCK or place == len(sizes):
            part = await call.service.admission.in_turn(functools.partial(_made, written, start, place, param))
            parts.append((b"," if parts else b"[") + part[1:-1])
            start, held = place, 0
    parts[-1] += b"]"
    return Written(tuple(parts))


def _made(written: Callable[[int, int], bytes], start: int, stop: int, param: str) -> bytes:
    try:
        return written(start, stop)
    except TextError as error:  # says which of this part's items it is
        message = str(error) if error.index is None else str(error).replace(f" {error.index} ", f" {start + error.index} ", 1)
        raise work.refusal_of(TextError(message), param=param) from error
    except ClosedError as error:
        raise work.refusal_of(error, param=param) from error
