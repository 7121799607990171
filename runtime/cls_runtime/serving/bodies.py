"""A request's body: read within its limit, held to UTF-8, decoded to the type that its endpoint takes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from cls_runtime.serving.admission import BodyBudget
from cls_runtime.serving.refusal import Kind, Refusal

Receive = Callable[[], Awaitable[Any]]

_TEXTS = re.compile(r"\$(\.(input|inputs|texts|query|documents))?(\[\.\.\.\]|\[\d+\])*$")


class OtherVectors(msgspec.Struct, kw_only=True):
    """What requests of other servers may ask for that makes other vectors. Whoever sends it would get vectors that are not those.

    Any other field that is unknown is ignored.
    """

    pooling: Any = None
    pooling_type: Any = None
    prompt: Any = None
    instruction: Any = None
    task: Any = None
    late_chunking: Any = None
    embedding_type: Any = None
    output_dtype: Any = None
    images: Any = None
    truncate_prompt_tokens: Any = None
    add_special_tokens: Any = None


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], *, limit: int, budget: BodyBudget) -> bytes:
    """The whole body.

    Raises:
        Refusal: it is over `limit`, its length is no number, or the bodies of all requests are over `budget`.
        ConnectionError: the client went away.
    """
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise Refusal("malformed", "content-length is no number")
            if int(value) > limit:
                raise too_large(limit)
    parts: list[bytes] = []
    size = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large(limit)
            budget.take(len(part))
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    finally:
        budget.give(sum(map(len, parts)))


def too_large(limit: int) -> Refusal:
    """The refusal of a body over the limit."""
    return Refusal("too_large", f"the body has more than {limit:,} bytes; send fewer texts at once (--max-body)", code="body_too_large")


def decoded(body: bytes, decoder: msgspec.json.Decoder[Any]) -> Any:
    """The body as its endpoint's type.

    Raises:
        Refusal: it is not UTF-8, not JSON, nested too deep, of another type, has token ids for texts, or asks for other vectors.
    """
    try:
        if not body.isascii():
            body.decode("utf-8")
        request = decoder.decode(body)
    except UnicodeDecodeError as error:
        raise Refusal("malformed", f"the body is not UTF-8, byte {error.start} is wrong; send JSON in UTF-8") from None
    except RecursionError:
        raise Refusal("malformed", "the body's JSON is nested too deep; no request needs that") from None
    except msgspec.ValidationError as error:
        raise _of_another_type(str(error)) from None
    except msgspec.DecodeError as error:
        raise Refusal("malformed", f"the body is not JSON: {error}") from None
    if isinstance(request, OtherVectors):
        refuse_other_vectors(request)
    return request


def refuse_other_vectors(request: OtherVectors) -> None:
    """Refuses what asks for vectors that this server does not give.

    Raises:
        Refusal: it names the field.
    """
    for name in OtherVectors.__struct_fields__:
        if getattr(request, name) is not None:
            raise Refusal("invalid", f"{name} asks for vectors that this server does not give; leave it out", param=name)


def _of_another_type(message: str) -> Refusal:
    """What msgspec says of a wrong type, as a refusal that names the field."""
    what, _, where = message.partition(" - at ")
    where = where.strip("`")
    if re.search(r"got `(int|float|array)`", what) and _TEXTS.fullmatch(where):
        param = where.removeprefix("$.").split("[")[0]
        return Refusal(
            "malformed",
            f"{param} has numbers, expected texts; token ids are another model's as often as this one's, send text "
            "(LangChain: check_embedding_ctx_length=False)",
            param=param,
            code="token_ids_not_supported",
        )
    missing = re.fullmatch(r"Object missing required field `(\w+)`", what)
    field = missing[1] if missing else where.removeprefix("$").removeprefix(".").split("[")[0] or None
    kind: Kind = "malformed" if missing or "got `" in what else "invalid"
    return Refusal(kind, f"{field or 'the body'}: {what[:1].lower()}{what[1:]}" + (f" at {where}" if "[" in where else ""), param=field)
