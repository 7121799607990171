"""Bodies: read within their limits, held to UTF-8 and JSON; what is wrong with one is said in a sentence."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from served import Answer, Served

from cls_runtime.serving import bodies
from cls_runtime.serving.application import ENDPOINTS
from cls_runtime.serving.protocols.openai import EmbeddingsRequest
from cls_runtime.serving.refusal import Refusal

POST = ("/v1/embeddings", "/embeddings", "/embed", "/similarity", "/tokenize", "/decode")
DEEP = 100_000
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = (*EmbeddingsRequest.__struct_fields__, "inputs", "ids", "parameters", "add_special_tokens", "skip_special_tokens", "sentences")


def message(answer: Answer, status: int = 400) -> str:
    assert answer.status == status, answer.body
    return str(answer.json["message"] if "message" in answer.json else answer.json["error"])


def embedding(served: Served, body: bytes, **options: Any) -> Answer:
    return served.post("/v1/embeddings", body, **options)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", r"the body is empty, expected JSON"),
        (b" \n", r"the body is empty, expected JSON"),
        (b'{"input": "a"', r"the body is not JSON: input data was truncated"),
        (b'{"input": "a"} x', r"the body is not JSON: trailing characters \(byte 16\)"),
        (b'{"input": "a"}{"input": "b"}', r"the body is not JSON: trailing characters"),
        (b'{"input": NaN}', r"the body is not JSON: invalid character"),
        (b'{"input": "a", "dimensions": Infinity}', r"the body is not JSON: invalid character"),
        (b'{"input": "a", "unknown": NaN}', r"the body is not JSON: invalid character"),
        (b"{'input': 'a'}", r"the body is not JSON: "),
        (b'{"input": "a",}', r"the body is not JSON: "),
        (b'{"input": "a\nb"}', r"the body is not JSON: invalid character"),
        (b'{"input": "a\x00b"}', r"the body is not JSON: invalid character"),
        (b'{"input": "\\x41"}', r"the body is not JSON: "),
        (b'\xef\xbb\xbf{"input": "a"}', r"the body begins with a byte order mark"),
        ('{"input": "a"}'.encode("utf-16"), r"the body is not UTF-8: byte 0 is invalid; send JSON in UTF-8"),
        ('{"input": "ä"}'.encode("latin-1"), r"the body is not UTF-8: byte 11 is invalid"),
        (b'{"input": "a\xff"}', r"the body is not UTF-8: byte 12 is invalid"),
        (b'{"input": "\xed\xa0\x80"}', r"the body is not UTF-8: byte 11 is invalid"),
        (b'{"input": "a", "unknown": "\xff"}', r"the body is not UTF-8: byte 27 is invalid"),
        (b'{"input": "\xc0\x80"}', r"the body is not UTF-8: byte 11 is invalid"),
        (b'{"input": "\\ud800"}', r"the body has half of a surrogate pair"),
        (b'{"input": "\\ud800 a"}', r"the body has half of a surrogate pair"),
        (b'{"input": "\\ud800\\ud800"}', r"the body has half of a surrogate pair"),
        (b'{"input": "\\udc00"}', r"the body has half of a surrogate pair"),
        (b'{"input": "a", "dimensions": 1e400}', r"dimensions: number out of range"),
        (b'{"input": ' + b"[" * DEEP + b"]" * DEEP + b"}", r"input\[0\] is not text"),
        (b'{"input": "a", "unknown": ' + b"[" * DEEP + b"]" * DEEP + b"}", r"the body's JSON is nested too deep"),
        (b'{"input": "a", "unknown": ' + b'{"a":' * DEEP, r"the body's JSON is nested too deep"),
        (b'{"input": "a", "user": ' + b"[" * DEEP + b"]" * DEEP + b"}", r"the body's JSON is nested too deep"),
        (b"[" * DEEP, r"the body is a list, expected an object"),
    ],
)
def test_what_is_no_request(served: Served, body: bytes, expected: str) -> None:
    assert re.match(expected, message(embedding(served, body)))
    assert embedding(served, b'{"input": "a"}').status == 200


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"input": "\\ud83d\\ude00"}', "\U0001f600"),
        (b'{"input": "\\u0000"}', "\0"),
        (b'{"input": "\\\\ud800"}', "\\ud800"),
        (b'{"input": "first", "input": "last"}', "last"),
        (b'\t{"input":\r\n"a"} \n', "a"),
        (b'{"input": "a", "unknown": ' + b"9" * 5000 + b"}", "a"),
        (b'{"input": "a", "unknown": 1e400, "user": 123456789012345678901234567890}', "a"),
        ('{"input": "漢\U0001f600"}'.encode(), "漢\U0001f600"),
        (b'{"\\u0069nput": "a"}', "a"),
    ],
)
def test_what_is_one(served: Served, body: bytes, text: str) -> None:
    answer = embedding(served, body)
    assert answer.status == 200, answer.body
    assert answer.body == embedding(served, json.dumps({"input": text}).encode()).body


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=latin-1", ""])
def test_the_content_type_does_not_matter(served: Served, content_type: str) -> None:
    assert embedding(served, b'{"input": "a"}', headers=[("content-type", content_type)]).status == 200
    assert embedding(served, b'{"input": "a"}').status == 200


def test_a_body_in_parts(served: Served) -> None:
    body = json.dumps({"input": ["the cat", "ä"]}, ensure_ascii=False).encode()
    whole = embedding(served, body).body
    assert served.post("/v1/embeddings", parts=[body[place : place + 1] for place in range(len(body))]).body == whole
    assert served.post("/v1/embeddings", parts=[b"", body, b""]).body == whole


def test_the_limit(serve: Callable[..., Served], bundle: Path) -> None:
    server = serve(bundle, max_body_bytes=1024)
    fits = json.dumps({"input": "a" * 1011}).encode()
    assert len(fits) == 1024
    assert embedding(server, fits).status == 200
    assert embedding(server, fits, headers=[("content-length", "1024")]).status == 200
    expected = "the body has more than 1,024 bytes; send fewer texts at once (--max-body)"
    assert message(embedding(server, fits + b" "), 413) == expected
    assert message(server.post("/v1/embeddings", parts=[fits, b" "]), 413) == expected
    assert message(embedding(server, b"", headers=[("content-length", "1025")]), 413) == expected
    assert message(embedding(server, fits, headers=[("content-length", "-1")])) == "content-length is not a number"
    assert message(embedding(server, fits, headers=[("content-length", "9" * 5000)]), 413) == expected
    assert server.service.bodies._held == 0


def test_all_bodies_together(serve: Callable[..., Served], bundle: Path) -> None:
    server = serve(bundle)
    server.service.bodies._most = 30
    assert embedding(server, b'{"input": "a"}').status == 200
    answer = embedding(server, json.dumps({"input": "a" * 40}).encode())
    assert message(answer, 429) == "the bodies of all current requests exceed the memory for them; try again later"
    assert answer.headers["retry-after"] == "1"
    assert server.service.bodies._held == 0
    assert embedding(server, b'{"input": "a"}').status == 200


def test_more_strings_than_any_request_has(served: Served) -> None:
    body = b'{"input":["a"' + b',"a"' * (bodies.MOST_STRINGS + 1) + b"]}"
    assert re.match(r"the body has more than 262,144 strings", message(embedding(served, body), 413))
    assert embedding(served, json.dumps({"input": '"' * bodies.MOST_STRINGS * 3}).encode()).status == 200  # one, of quotes
    spaced = b'{"input":["a"' + b' , "a"' * (bodies.MOST_STRINGS + 1) + b"]}"
    assert embedding(served, spaced).status == 413


def test_a_server_that_takes_more_texts_takes_more_strings() -> None:
    decoder = msgspec.json.Decoder(EmbeddingsRequest)
    body = b'{"input":["a"' + b',"a"' * (bodies.MOST_STRINGS + 1) + b"]}"
    assert len(bodies.decoded(body, decoder, max_inputs=bodies.MOST_STRINGS).input) == bodies.MOST_STRINGS + 2
    with pytest.raises(Refusal, match="the body has more than 262,144 strings"):
        bodies.decoded(body, decoder)


@pytest.mark.parametrize("value", ["x - at `$.input`", "x - at " * 10**5, "`", " - at `$" * 1000 + "`", "\n" * 1000])
def test_a_wrong_value_cannot_pretend_to_be_another_field(served: Served, value: str) -> None:
    answer = served.post("/v1/embeddings", {"input": "a", "encoding_format": value})
    assert re.match(r"encoding_format is .{,150}, expected float or base64$", message(answer))
    assert answer.json["error"]["param"] == "encoding_format"


def test_a_message_quotes_no_text() -> None:
    decoder = msgspec.json.Decoder(EmbeddingsRequest)
    for body in (b'{"input": ["secret", 5]}', b'{"input": {"secret": 1}}', b'{"input": "secret', b'{"input": "secret", "prompt": "x"}'):
        with pytest.raises(Refusal) as error:
            bodies.decoded(body, decoder)
        assert "secret" not in error.value.message


def test_every_field_that_changes_nothing_is_one_that_is_looked_at() -> None:
    fields = set(bodies.OtherVectors.__struct_fields__)
    assert set(bodies._SAME_VECTORS) <= fields
    assert set(bodies._INSTEAD) <= fields
    assert not fields & set(EmbeddingsRequest.__annotations__)


@pytest.mark.parametrize("path", POST)
@given(body=st.binary(max_size=60))
def test_any_bytes(served: Served, path: str, body: bytes) -> None:
    assert served.post(path, body).status in (400, 422)


@pytest.mark.parametrize("path", POST[1:])
@settings(max_examples=20)
@given(data=st.data())
def test_any_json(served: Served, path: str, data: st.DataObject) -> None:
    texts = st.text(max_size=10) | st.lists(st.text(max_size=5) | st.integers(), max_size=3) | JSON
    fields = {"input": texts, "inputs": texts, "ids": st.lists(st.integers(-1, 99), max_size=5) | JSON}
    body = data.draw(JSON | st.fixed_dictionaries({}, optional=fields | {name: JSON for name in FIELDS if name not in fields}))
    answer = served.post(path, json.dumps(body).encode())
    assert answer.status in (200, 400, 404, 413, 422), answer.body
    if answer.status != 200:
        assert "\n" not in message(answer, answer.status)


LISTS = b"[" + b"[]," * 5_000_000 + b"1]"


@pytest.mark.timing
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", b'{"input": "a", "pooling": ' + LISTS + b"}"),
        ("/v1/embeddings", b'{"input": "a", "user": ' + LISTS + b"}"),
        ("/embed", b'{"inputs": "a", "parameters": {"x": ' + LISTS + b"}}"),
        ("/rerank", b'{"query": "a", "texts": ["a"], "relevant_spans": ' + LISTS + b"}"),
        ("/predict", b'{"inputs": ' + LISTS + b"}"),
        ("/predict", b'{"inputs": [' + b"[\t]," * 3_000_000 + b"[]]}"),
        ("/decode", b'{"ids": [' + b"[]," * 2**18 + b"[]]}"),
    ],
    ids=["pooling", "user", "parameters", "relevant_spans", "inputs", "inputs with spaces", "ids"],
)
def test_millions_of_lists_hold_up_the_others_no_longer_than_this(path: str, body: bytes) -> None:
    """Measured: 20 to 60 ms; made into objects they take 1.6 s."""
    decoder = next(endpoint.decoder for endpoint in ENDPOINTS if endpoint.path == path and endpoint.method == "POST")
    began = time.thread_time()
    with contextlib.suppress(Refusal):
        bodies.decoded(body, decoder)
    assert time.thread_time() - began < 0.25


@pytest.mark.parametrize("value", ['"[][]"', '"\\ud800"', "[" * 60 + "]" * 60, '"' + "x" * 500 + '"', "{}", "0"])
def test_what_is_not_made_into_objects_is_refused_as_what_is(served: Served, value: str) -> None:
    for path, text in (("/v1/embeddings", '"input": "a"'), ("/", '"inputs": "a"')):
        assert served.post(path, f'{{{text}, "pooling": {value}}}'.encode()).status in (400, 422)
    assert served.post("/v1/embeddings", {"input": "a", "pooling": None, "precision": "float32", "user": {"a": [1]}}).status == 200
    assert served.post("/", {"inputs": "a", "model": "m" * 500}).status == 404


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip"])
def test_a_compressed_body_is_refused_for_that(served: Served, coding: str) -> None:
    for body in (gzip.compress(b'{"input": "a"}'), b'{"input": "a"}'):
        assert "compressed" in message(embedding(served, body, headers=[("content-encoding", coding)]))
    assert embedding(served, b'{"input": "a"}', headers=[("content-encoding", "Identity")]).status == 200


@pytest.mark.timing
@pytest.mark.parametrize(
    "body",
    [
        json.dumps({"input": ["word " * 1600] * 2048}).encode(),
        json.dumps({"input": ["w\u00f6rd \u6f22\u5b57 " * 560] * 2048}, ensure_ascii=False).encode(),
        json.dumps({"input": ["w\u00f6rd \u6f22\u5b57 " * 330] * 2048}).encode(),
        b'{"input": "a", "unknown": [' + b"[]," * 5_000_000 + b"1]}",
        b'{"input": [' + b'"a",' * 4_000_000 + b'"a"]}',
        b'{"input": "' + b"\\" * 2**24,
        b'{"input": "' + b"\\ud800" * 2**21 + b'"}',
    ],
    ids=["ascii", "utf-8", "escapes", "unknown", "strings", "backslashes", "surrogates"],
)
def test_the_largest_body_holds_up_the_others_no_longer_than_this(body: bytes) -> None:
    """Measured: 5 to 50 ms of 16 MiB on a core of 2026; four times as long fails."""
    assert len(body) > 2**23
    decoder = msgspec.json.Decoder(EmbeddingsRequest)
    began = time.thread_time()
    with contextlib.suppress(Refusal):
        bodies.decoded(body, decoder)
    assert time.thread_time() - began < 0.2
