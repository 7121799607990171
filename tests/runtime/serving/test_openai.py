"""OpenAI's embeddings and models: every field and rule of the contract."""

from __future__ import annotations

import numpy as np
from served import Running, Served, from_base64


def test_a_text_and_its_vector(served: Served) -> None:
    answer = served.post("/v1/embeddings", {"input": "the cat sleeps", "model": "tiny", "encoding_format": "base64"})
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    expected = served.encoder.encode(["the cat sleeps"])
    (item,) = answer.json["data"]
    assert from_base64(item["embedding"]).tobytes() == expected.tobytes()


def test_a_real_server_gives_the_same(real_server: Running, served: Served) -> None:
    answer = real_server.ask("/v1/embeddings", {"input": ["the cat", ""]})
    given = np.array([item["embedding"] for item in answer.json["data"]], dtype=np.float32)
    np.testing.assert_array_equal(given, served.encoder.encode(["the cat", ""]))
