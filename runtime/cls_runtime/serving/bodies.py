"""A request's body: read within its limit, held to UTF-8, decoded to the type that its endpoint takes."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Literal, get_args, get_origin, get_type_hints

import msgspec

from cls_runtime.encoding.overflow import TruncationSide
from cls_runtime.serving.admission import BodyBudget
from cls_runtime.serving.refusal import Refusal

Receive = Callable[[], Awaitable[Any]]

# Strings are made in 50 ns each while every other request waits; far more than any request has are not even begun with.
MOST_STRINGS = 2**18
# A body of fewer bytes has not so many strings, quotes and commas included.
_FEW_BYTES = 3 * MOST_STRINGS

# In a body of so many bytes nobody looks for why it is no JSON: that takes longer than to read it.
LARGE_BYTES = 2**20

# Of a content-length; Python reads no number of thousands of them.
_MOST_DIGITS = 18

_TEXT_FIELDS = frozenset({"", "input", "inputs", "texts", "query", "documents", "source_sentence", "sentences"})
_MISMATCH = re.compile(r"Expected `(.+)`, got `(\w+)`")
_MISSING = re.compile(r"Object missing required field `(\w+)`")
_UNKNOWN_CHOICE = re.compile(r"Invalid enum value (.+)", re.DOTALL)
_IN_A_LIST = re.compile(r"\[(\.\.\.|\d+)\]")
_IN_WORDS = {
    "str": "a string",
    "int": "a whole number",
    "float": "a number",
    "bool": "a boolean",
    "array": "a list",
    "object": "an object",
}
_LONE_SURROGATE = re.compile(
    rb"(?<!\\)(?:\\\\)*(?:\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)


async def read_body(receive: Receive, headers: Iterable[tuple[bytes, bytes]], *, limit: int, budget: BodyBudget) -> bytes:
    """The whole body, whose bytes stay counted in `budget`: give them back when nothing is left of it.

    Raises:
        Refusal: it is over `limit`, its length is no number, it is compressed, or the bodies of all requests are over `budget`.
        ConnectionError: the client went away.
    """
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit():
                raise Refusal("malformed", "content-length is not a number")
            if len(value) > _MOST_DIGITS or int(value) > limit:
                raise too_large(limit)
        elif name == b"content-encoding" and value.strip().lower() not in (b"", b"identity"):
            raise Refusal("malformed", "the body is compressed (content-encoding); send it uncompressed")
    parts: list[bytes] = []
    size = held = 0
    try:
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError("the client went away")
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise too_large(limit)
            budget.take(len(part), size=size)
            held += len(part)
            parts.append(part)
            if not message.get("more_body", False):
                return parts[0] if len(parts) == 1 else b"".join(parts)
    except BaseException:
        budget.give(held)
        raise


def too_large(limit: int) -> Refusal:
    """The refusal of a body over the limit."""
    return Refusal("too_large", f"the body has more than {limit:,} bytes; send fewer texts at once (--max-body)", code="body_too_large")


def decoded(body: bytes, decoder: msgspec.json.Decoder[Any], *, max_inputs: int = 2048) -> Any:
    """The body as its endpoint's type.

    Args:
        body: the bytes.
        decoder: of the endpoint.
        max_inputs: how many texts are taken at once; a body may have far more strings than that, and no number of them.

    Raises:
        Refusal: it is not UTF-8, not JSON, nested too deep, of another type, has too many strings, token ids for texts, or asks for
            other vectors.
    """
    most_commas = getattr(decoder.type, "most_commas", None)
    if most_commas is not None and body.count(b",") > most_commas:
        raise Refusal("too_large", "the body has far more numbers than one request may have; send fewer", code="too_many_inputs")
    most_empty_lists = getattr(decoder.type, "most_empty_lists", None)
    if most_empty_lists is not None and body.count(b"[") > most_empty_lists < body.translate(None, b" \t\r\n").count(b"[]"):
        raise Refusal("too_large", "the body has far more lists than one request may have; send fewer", code="too_many_inputs")
    if len(body) > _FEW_BYTES:
        # A string has two quotes that no backslash is before; where its last character is a backslash, one.
        quotes, most = body.count(b'"'), max(MOST_STRINGS, 2 * max_inputs)
        if quotes > 2 * most and quotes - body.count(b'\\"') > 2 * most:
            raise Refusal("too_large", f"the body has more than {most:,} strings; send fewer texts at once", code="too_many_inputs")
    try:
        if not body.isascii():
            body.decode("utf-8")  # also of what the decoder skips
        request = decoder.decode(body)
    except UnicodeDecodeError as error:
        raise Refusal("malformed", f"the body is not UTF-8: byte {error.start} is invalid; send JSON in UTF-8") from None
    except RecursionError:
        raise Refusal("malformed", "the body's JSON is nested too deeply; no request needs that") from None
    except msgspec.ValidationError as error:
        raise _of_another_type(str(error), decoder) from None
    except msgspec.DecodeError as error:
        raise Refusal("malformed", _not_json(body, str(error))) from None
    if isinstance(request, OtherVectors):
        refuse_other_vectors(request)
    return request


def _not_json(body: bytes, reason: str) -> str:
    """Why a body is no JSON."""
    if not body.strip():
        return "the body is empty, expected JSON"
    if body.startswith(b"\xef\xbb\xbf"):
        return "the body begins with a byte order mark, which JSON has not; send it without"
    if len(body) < LARGE_BYTES and _LONE_SURROGATE.search(body):
        return "the body has half of a surrogate pair (\\ud800 to \\udfff), which is no Unicode character; send both halves, or neither"
    reason = reason.removeprefix("JSON is malformed: ")
    return f"the body is not JSON: {reason[:1].lower()}{reason[1:]}"


def _of_another_type(message: str, decoder: msgspec.json.Decoder[Any]) -> Refusal:
    """What msgspec says of a wrong type, as a refusal that names the field."""
    what, at, where = message.rpartition(" - at `$")
    what, where = (what, where.removesuffix("`").removeprefix(".")) if at else (message, "")
    param = _IN_A_LIST.split(where)[0] or None
    if missing := _MISSING.fullmatch(what):
        param = f"{param}.{missing[1]}" if param else missing[1]
        return Refusal("malformed", f"{param} is missing; it is required", param=param)
    if found := _MISMATCH.fullmatch(what):
        expected, given = found.groups()
        is_text = "str" in expected and (param or "").split(".")[-1] in _TEXT_FIELDS
        if is_text and (given in ("int", "float") or (given == "array" and "[" in where)):
            return _token_ids(where or "the body", param)
        words = [_IN_WORDS.get(kind, kind) for kind in expected.split(" | ")]
        return Refusal("malformed", f"{where or 'the body'} is {_IN_WORDS.get(given, given)}, expected {' or '.join(words)}", param=param)
    if unknown := _UNKNOWN_CHOICE.fullmatch(what):
        choices = _choices(decoder.type, param)
        expected = f", expected {' or '.join(choices)}" if choices else ", which is none of its values"
        return Refusal("invalid", f"{where} is {unknown[1][:100]}{expected}", param=param)
    return Refusal("invalid", f"{where or 'the body'}: {what[:1].lower()}{what[1:200]}", param=param)


def _token_ids(where: str, param: str | None) -> Refusal:
    return Refusal(
        "malformed",
        f"{where} is not text; token ids may belong to another model, so send text (LangChain: check_embedding_ctx_length=False)",
        param=param,
        code="token_ids_not_supported",
    )


def _choices(kind: Any, field: str | None) -> tuple[str, ...]:
    """What a field that is a Literal may be."""
    for name in (field or "").split("."):
        kind = get_type_hints(kind).get(name) if isinstance(kind, type) else None
        if type(None) in get_args(kind):
            kind = next(one for one in get_args(kind) if one is not type(None))
    return tuple(map(str, get_args(kind))) if get_origin(kind) is Literal else ()


# Which end of a text that is too long goes: TEI's word, and that of Hugging Face's clients.
Side = Literal["left", "right", "Left", "Right"]


def truncation_side(side: Side | None) -> TruncationSide | None:
    """The same as the Encoder calls it."""
    return None if side is None else "left" if side in ("left", "Left") else "right"


# What a field is that is left as it stands in the body (`msgspec.Raw`), where it is not there.
ABSENT: Any = None
# A list or an object of more bytes is none that changes nothing.
_SHORT_BYTES = 100


class OtherVectors(msgspec.Struct, kw_only=True):
    """What requests of other servers may ask for that makes other vectors. Whoever sends it would get vectors that are not those.

    Any other field that is unknown is ignored. What stands in these is not made into objects, of which a body can have millions.
    """

    # vLLM
    add_special_tokens: msgspec.Raw = ABSENT
    embed_dtype: msgspec.Raw = ABSENT
    endianness: msgspec.Raw = ABSENT
    messages: msgspec.Raw = ABSENT
    truncate_prompt_tokens: msgspec.Raw = ABSENT
    # Jina
    embedding_type: msgspec.Raw = ABSENT
    late_chunking: msgspec.Raw = ABSENT
    return_multivector: msgspec.Raw = ABSENT
    task: msgspec.Raw = ABSENT
    # Voyage, Mistral
    output_dtype: msgspec.Raw = ABSENT
    # Vertex AI, Nomic
    dimensionality: msgspec.Raw = ABSENT
    task_type: msgspec.Raw = ABSENT
    # infinity
    modality: msgspec.Raw = ABSENT
    # sentence-transformers, llama.cpp, and what is served with them
    embd_normalize: msgspec.Raw = ABSENT
    images: msgspec.Raw = ABSENT
    instruction: msgspec.Raw = ABSENT
    pooling: msgspec.Raw = ABSENT
    pooling_type: msgspec.Raw = ABSENT
    precision: msgspec.Raw = ABSENT
    prompt: msgspec.Raw = ABSENT


# What changes nothing when it is asked for. Whatever else, null apart, is refused.
_SAME_VECTORS: dict[str, tuple[Any, ...]] = {
    "add_special_tokens": (True,),
    "embed_dtype": ("float32",),
    "endianness": ("native", "little"),
    "truncate_prompt_tokens": (-1,),  # as many as the model takes
    "embedding_type": ("float", ["float"]),
    "late_chunking": (False,),
    "return_multivector": (False,),
    "output_dtype": ("float", "float32"),
    "modality": ("text",),
    "embd_normalize": (2,),  # the Euclidean norm
    "images": ([],),
    "precision": ("float32",),
}
_INSTEAD = {
    "task": "name one of the bundle's prompts with prompt_name or input_type",
    "task_type": "name one of the bundle's prompts with prompt_name or input_type",
    "instruction": "name one of the bundle's prompts with prompt_name, or write it in front of each text",
    "prompt": "name one of the bundle's prompts with prompt_name, or write it in front of each text",
    "dimensionality": "ask with dimensions",
    "embedding_type": "ask with encoding_format for float or base64",
    "messages": "send texts",
}


def value_of(raw: msgspec.Raw | None) -> Any:
    """A field's value where it is a string or short; of any other one, and of one that is no JSON, its bytes."""
    if raw is None:
        return None
    written = bytes(raw)
    if len(written) > _SHORT_BYTES and written[:1] != b'"':
        return written
    try:
        return msgspec.json.decode(written)
    except msgspec.DecodeError:
        return written


def refuse_other_vectors(request: OtherVectors) -> None:
    """Refuses what asks for vectors that this server does not give.

    Raises:
        Refusal: it names the field.
    """
    for name in OtherVectors.__struct_fields__:
        raw = getattr(request, name)
        if raw is None:
            continue
        value = value_of(raw)
        setattr(request, name, None)  # it would keep the whole body
        if value is not None and not any(value == same and type(value) is type(same) for same in _SAME_VECTORS.get(name, ())):
            instead = _INSTEAD.get(name, "leave it out")
            raise Refusal("invalid", f"{name} asks for vectors that this server does not compute; {instead}", param=name)
