"""JSON that leaves: vectors as float32's shortest digits or as base64, in slices, so that nobody waits for a large answer to be written."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

from cls_runtime.serving.record import RequestRecord

Float32 = NDArray[np.float32]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

# So many numbers are written at a time, in about half a millisecond.
SLICE_NUMBERS = 2**14
_JSON = "application/json"


@dataclass(frozen=True)
class Written:
    """JSON as bytes, in parts that are never put together: of a large answer that alone would take milliseconds."""

    parts: tuple[bytes, ...]

    def __bytes__(self) -> bytes:
        return b"".join(self.parts)


class JsonResponse(Response):
    """An answer that is JSON already, or becomes it."""

    media_type = _JSON

    def __init__(self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None) -> None:
        self._rest: tuple[bytes, ...] = ()
        if isinstance(content, Written) and len(content.parts) > 1:
            content, *rest = content.parts
            self._rest = tuple(rest)
            headers = {**(headers or {}), "content-length": str(len(content) + sum(map(len, rest)))}
        super().__init__(content, status_code, headers)

    def render(self, content: Any) -> bytes:
        """The body."""
        if isinstance(content, bytes):
            return content
        return bytes(content) if isinstance(content, Written) else orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:  # noqa: ARG002  ASGI gives them
        """Sends it, part by part; the server waits between two of them where the client reads slowly."""
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        await send({"type": "http.response.body", "body": self.body, "more_body": bool(self._rest)})
        for place, part in enumerate(self._rest, start=1):
            await asyncio.sleep(0)
            await send({"type": "http.response.body", "body": part, "more_body": place < len(self._rest)})


def base64_of(row: Float32) -> str:
    """A vector's little-endian float32 bytes in base64, as OpenAI's clients ask for them."""
    return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode("ascii")


async def items(
    rows: Any, item: Callable[[int, Any], Any], *, record: RequestRecord | None = None, numbers_a_row: int | None = None
) -> Written:
    """A JSON array with `item(index, row)` of each row, made slice by slice.

    Args:
        rows: float32 [n, width], or any other sequence.
        item: what stands for a row; arrays in it are written as numbers.
        record: the request that it is for; its phase `write` takes in the time.
        numbers_a_row: how much there is to write of a row; None for the width of `rows`.
    """
    began = time.perf_counter()
    step = max(1, SLICE_NUMBERS // max(1, rows.shape[1] if numbers_a_row is None else numbers_a_row))
    parts = []
    for start in range(0, len(rows), step):
        if start:
            await asyncio.sleep(0)
        written = [item(start + place, row) for place, row in enumerate(rows[start : start + step])]
        # The bracket that opens the first slice opens the array; of each other one it becomes the comma in front.
        parts.append((b"," if start else b"[") + orjson.dumps(written, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1])
    parts = parts or [b"["]
    parts[-1] += b"]"
    if record is not None:
        record.seconds["write"] = record.seconds.get("write", 0.0) + time.perf_counter() - began
    return Written(tuple(parts))


def numbers_of(texts: Sequence[str]) -> int:
    """How many numbers there are as much to write of as of a text, on average: a number takes about ten characters."""
    return 1 + sum(map(len, texts)) // (10 * max(1, len(texts)))


def with_items(before: dict[str, Any], name: str, array: Written) -> Written:
    """A JSON object: the fields of `before`, and the array under `name` behind them.

    >>> bytes(with_items({"object": "list"}, "data", Written((b"[1]",))))
    b'{"object":"list","data":[1]}'
    """
    return with_arrays(before, {name: array})


def with_arrays(before: dict[str, Any], arrays: Mapping[str, Written]) -> Written:
    """The same with several of them.

    >>> bytes(with_arrays({}, {"a": Written((b"[1]",)), "b": Written((b"[2", b",3]"))}))
    b'{"a":[1],"b":[2,3]}'
    """
    parts: list[bytes] = []
    head = orjson.dumps(before)[:-1] + (b"," if before else b"")
    for name, array in arrays.items():
        parts += [(b"," if parts else head) + orjson.dumps(name) + b":" + array.parts[0], *array.parts[1:]]
    parts[-1] += b"}"
    return Written(tuple(parts))
