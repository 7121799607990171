"""What the programs `integration.py` of each environment share: what the vectors of an integration must be.

Python's own modules, numpy and cls_runtime only: it runs in the host's environment. Its argument is a small bundle with prompts.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cls_runtime import Encoder

assert "torch" not in sys.modules
BUNDLE = Path(sys.argv[1])
TEXTS = ["the cat sleeps", "rain", "a dog in the rain", "the dog", "a cat, a dog: the cat sleeps in the rain"]
QUERIES = ["a dog", "the cat"]
# What is no list of texts: a str iterates over its characters.
NO_LISTS: list[Any] = ["a text", None, [None], ["a text", 3], [("a", "b")], b"a text", {"a": "b"}]
NO_TEXTS: list[Any] = [None, 3, ["a text"], ("a", "b"), b"a text"]
MAX_ABS = 2e-6

encoder = Encoder.load(BUNDLE, threads=2)


def expected(texts: list[str], *, query: bool = False, **options: Any) -> np.ndarray:
    """What `Encoder` gives, float32 [n, width]."""
    return encoder.encode_query(texts, **options) if query else encoder.encode_document(texts, **options)


def same(given: Any, rows: np.ndarray) -> None:
    """`given` is these vectors, and not those of other texts."""
    array = np.asarray(given, np.float32)
    assert array.shape == rows.shape, (array.shape, rows.shape)
    assert np.abs(array - rows).max(initial=0.0) <= MAX_ABS, np.abs(array - rows).max(axis=1)


def ranking(query: str) -> list[str]:
    """The texts, the nearest to the query first, by the cosine."""
    (vector,), rows = expected([query], query=True), expected(TEXTS)
    scores = rows @ vector / np.linalg.norm(rows, axis=1)
    assert np.diff(np.sort(scores)).min() > 1e-4  # no two texts tie
    return [TEXTS[place] for place in np.argsort(-scores)]


@contextmanager
def refused(*errors: type[BaseException], words: str = "") -> Iterator[None]:
    """One of the errors is raised, and says `words`."""
    try:
        yield
    except errors as raised:
        if words not in f"{raised} {raised.__cause__}":
            raise AssertionError(f"{raised!r} does not say {words!r}") from raised
    else:
        raise AssertionError(f"not refused; expected {', '.join(error.__name__ for error in errors)}")


def distinguishable() -> None:
    """Or nothing here could fail: prompts, options and texts change the vectors."""
    documents = expected(TEXTS)
    for others in (expected(TEXTS, query=True), expected(TEXTS, prompt=""), expected(TEXTS, prompt="the "), np.roll(documents, 1, axis=0)):
        assert np.abs(documents - others).max(axis=1).min() > 20 * MAX_ABS
    assert np.abs(documents - expected(TEXTS, normalize=False)).max() > 20 * MAX_ABS


distinguishable()
