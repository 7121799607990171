"""JSON that leaves: vectors as float32's shortest digits or as base64, in slices, so that nobody waits for a large answer to be written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray
from starlette.responses import Response

Float32 = NDArray[np.float32]

# So many numbers are written at a time, in about half a millisecond.
SLICE_NUMBERS = 2**14
_JSON = "application/json"


class JsonResponse(Response):
    """An answer that is JSON already, or becomes it."""

    media_type = _JSON

    def render(self, content: Any) -> bytes:
        """The body."""
        return content if isinstance(content, bytes) else orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)


def base64_of(row: Float32) -> str:
    """A vector's little-endian float32 bytes in base64, as OpenAI's clients ask for them."""
    return base64.b64encode(row.astype("<f4", copy=False).tobytes()).decode("ascii")


async def items(rows: Float32, item: Callable[[int, Float32], Any]) -> bytes:
    """A JSON array with `item(index, row)` of each row, made slice by slice.

    Args:
        rows: float32 [n, width].
        item: what stands for a row; arrays in it are written as numbers.
    """
    return b"[" + b",".join([part async for part in _slices(rows, item)]) + b"]"


async def _slices(rows: Float32, item: Callable[[int, Float32], Any]) -> AsyncIterator[bytes]:
    step = max(1, SLICE_NUMBERS // max(1, rows.shape[1]))
    for start in range(0, len(rows), step):
        if start:
            await asyncio.sleep(0)
        part = [item(start + place, row) for place, row in enumerate(rows[start : start + step])]
        yield orjson.dumps(part, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1]


def with_items(before: dict[str, Any], name: str, array: bytes) -> bytes:
    """A JSON object: the fields of `before`, and the array under `name` behind them.

    >>> with_items({"object": "list"}, "data", b"[1]")
    b'{"object":"list","data":[1]}'
    """
    head = orjson.dumps(before)[:-1]
    return head + (b"," if before else b"") + orjson.dumps(name) + b":" + array + b"}"
