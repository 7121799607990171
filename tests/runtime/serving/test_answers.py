"""Answers: float32 to the bit, in JSON and in base64, written in slices that nobody waits for."""

from __future__ import annotations

import asyncio
import json
import re
import time
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as from_numpy
from served import from_base64

from cls_runtime.serving import answers
from cls_runtime.serving.answers import JsonResponse, Written, base64_of, items, with_items
from cls_runtime.serving.record import RequestRecord

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROWS = from_numpy.arrays(np.float32, st.tuples(st.integers(0, 40), st.integers(1, 12)), elements=FLOATS)


def array(rows: np.ndarray, item: Any = lambda _index, row: row) -> Written:
    return asyncio.run(items(rows, item))


async def sent_by(response: JsonResponse) -> list[Any]:
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    await response({"type": "http"}, asyncio.Event().wait, send)
    return sent


@given(rows=ROWS, slice_numbers=st.integers(1, 100))
def test_numbers_are_the_same_float32(rows: np.ndarray, slice_numbers: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answers, "SLICE_NUMBERS", slice_numbers)
        written = array(rows)
    found = np.array(json.loads(bytes(written)), dtype=np.float32).reshape(rows.shape)
    assert found.tobytes() == rows.tobytes()  # -0.0 and subnormal numbers too
    assert len(written.parts) == max(1, -(-len(rows) // max(1, slice_numbers // rows.shape[1])))


@given(row=from_numpy.arrays(np.float32, st.integers(1, 400), elements=st.floats(width=32)))
def test_base64_is_the_same_bits(row: np.ndarray) -> None:
    assert from_base64(base64_of(row)).tobytes() == row.astype("<f4").tobytes()
    assert from_base64(base64_of(row.astype(">f4"))).tobytes() == row.astype("<f4").tobytes()
    assert from_base64(base64_of(np.stack([row, row], axis=1)[:, 0])).tobytes() == row.astype("<f4").tobytes()


def test_every_number_has_a_point_or_an_exponent() -> None:
    rows = np.array([[0.0, 1.0, -3.0, 1e20, 1e-20, 2.0**24]], dtype=np.float32)
    assert all(re.search(r"[.e]", number) for number in bytes(array(rows)).strip(b"[]").decode().split(","))


def test_slices_together_are_one_array(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_NUMBERS", 5)
    rows = np.arange(22, dtype=np.float32).reshape(11, 2)
    written = array(rows, lambda index, row: {"index": index, "row": row})
    assert len(written.parts) == 6
    assert json.loads(bytes(written)) == [{"index": index, "row": row.tolist()} for index, row in enumerate(rows)]
    assert json.loads(bytes(with_items({"a": 1}, "data", written))) == {"a": 1, "data": json.loads(bytes(written))}
    assert json.loads(bytes(with_items({}, "data", array(rows[:1])))) == {"data": [[0, 1]]}
    assert bytes(array(rows[:0])) == b"[]"


def test_a_response_sends_its_parts_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answers, "SLICE_NUMBERS", 2)
    written = array(np.zeros((3, 2), dtype=np.float32))
    start, *bodies = asyncio.run(sent_by(JsonResponse(written, status_code=201, headers={"x-a": "b"})))
    headers = dict(start["headers"])
    assert start["status"] == 201
    assert headers == {b"x-a": b"b", b"content-length": b"31", b"content-type": b"application/json"}
    assert [message["more_body"] for message in bodies] == [True, True, False]
    assert b"".join(message["body"] for message in bodies) == bytes(written)


@pytest.mark.parametrize("content", [{"a": [1, None]}, b'{"a":1}', [1.5], Written((b"[]",)), np.zeros(2, dtype=np.float32), "ä"])
def test_a_small_response_is_one_message(content: Any) -> None:
    start, body = asyncio.run(sent_by(JsonResponse(content)))
    raw = content if isinstance(content, bytes) else bytes(content) if isinstance(content, Written) else None
    assert body["body"] == (raw if raw is not None else orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))
    assert not body["more_body"]
    assert dict(start["headers"])[b"content-length"] == str(len(body["body"])).encode()


def test_the_record_takes_in_the_time() -> None:
    record = RequestRecord("id", "POST", "/")
    asyncio.run(items(np.zeros((100, 1000), dtype=np.float32), lambda _index, row: row, record=record))
    assert 0 < record.seconds["write"] < 10


@pytest.mark.timing
@pytest.mark.parametrize("in_base64", [False, True])
def test_a_large_answer_never_holds_the_event_loop_for_long(in_base64: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(0).standard_normal((2048, 384)).astype(np.float32)
    held_ms: list[float] = []
    run = asyncio.Handle._run

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        held_ms.append((time.thread_time() - began) * 1e3)

    async def answer() -> None:
        await asyncio.sleep(0)  # what asyncio.run does before is none of it
        held_ms.clear()
        data = await items(rows, lambda index, row: {"index": index, "embedding": base64_of(row) if in_base64 else row})
        await sent_by(JsonResponse(with_items({"object": "list"}, "data", data)))

    monkeypatch.setattr(asyncio.Handle, "_run", timed)
    asyncio.run(answer())
    assert len(held_ms) > 40
    assert max(held_ms) < 5
