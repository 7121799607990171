"""What a client must get, kind by kind, computed by `Encoder`; and the proof that each comparison can fail."""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from client_servers import QUERY, Asked
from numpy.typing import NDArray

MAX_ABS = 2e-6  # measured 2e-7
Activation = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def check(asked: Asked, kind: str, value: Any, options: dict[str, Any]) -> None:
    """Compares what came with what `Encoder` gives; `options` are those of `encode`, or `top_n`, or `texts` in place of the server's.

    Raises:
        AssertionError: they differ, or the comparison would also hold for a damaged value or without one of the options.
    """
    options = {"texts": asked.texts, **options}
    compare = _COMPARISONS[kind]
    compare(asked, value, **options)
    wrong = [(_damaged(kind, value), options)]
    wrong += [(value, {name: other for name, other in options.items() if name != without}) for without in options.keys() - {"texts"}]
    for damaged, others in wrong:
        try:
            compare(asked, damaged, **others)
        except AssertionError:
            continue
        raise AssertionError(f"the comparison with {sorted(others)} would hold for something else too")


def _damaged(kind: str, value: Any) -> Any:
    """Rows in each other's places; a number that is off by four times what is allowed."""
    if kind == "tokens":
        return value + 1
    if kind == "base64 vectors":
        return value[1:] + value[:1]
    if kind in ("vectors", "similarities"):
        return np.roll(value, 1, axis=0) if len(value) > 1 else np.asarray(value) + 4 * MAX_ABS
    (name, score), *others = value
    return [(name, score + 4 * MAX_ABS), *others]


def _vectors(asked: Asked, value: Any, *, texts: list[str], **options: Any) -> None:
    got, expected = np.asarray(value, np.float32), asked.encode(texts, **options)
    assert got.shape == expected.shape
    assert np.abs(got - expected).max() <= MAX_ABS, np.abs(got - expected).max(axis=1)


def _base64(asked: Asked, value: Any, **options: Any) -> None:
    _vectors(asked, [np.frombuffer(base64.b64decode(row, validate=True), "<f4") for row in value], **options)


def _tokens(asked: Asked, value: Any, *, texts: list[str]) -> None:
    assert value == sum(len(found.ids) for found in asked.encoder.tokens(texts))


def _similarities(asked: Asked, value: Any, *, texts: list[str]) -> None:
    expected = asked.encoder.similarity(asked.encode([QUERY]), asked.encode(texts))[0]
    assert np.abs(np.asarray(value) - expected).max() <= MAX_ABS


def _ranking(asked: Asked, value: Any, *, texts: list[str], activation: Activation, top_n: int | None = None) -> None:
    """Pairs of a text's place and its score, the best first."""
    scores = activation(asked.encode([[QUERY, text] for text in texts], output="logits"))[:, 0]
    _same_order([(int(place), float(scores[place])) for place in np.argsort(-scores, kind="stable")[:top_n]], value)


def _predictions(asked: Asked, value: Any, *, texts: list[str], activation: Activation | None = None, top_n: int | None = None) -> None:
    """Pairs of a label and its score, the best first, of one text."""
    (logits,), labels = asked.encode(texts, output="logits"), asked.encoder.manifest.labels
    scores = (activation or (_sigmoid if len(labels) == 1 else _softmax))(logits)
    _same_order([(labels[place], float(scores[place])) for place in np.argsort(-scores, kind="stable")[:top_n]], value)


def _same_order(expected: list[tuple[Any, float]], value: Any) -> None:
    assert [name for name, _ in value] == [name for name, _ in expected]
    assert max(abs(score - other) for (_, score), (_, other) in zip(value, expected, strict=True)) <= MAX_ABS, (value, expected)


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return 1 / (1 + np.exp(-logits))


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def _unchanged(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    return logits


_COMPARISONS: dict[str, Callable[..., None]] = {
    "vectors": _vectors,
    "base64 vectors": _base64,
    "tokens": _tokens,
    "similarities": _similarities,
    "ranking": partial(_ranking, activation=_sigmoid),
    "ranking by logits": partial(_ranking, activation=_unchanged),
    "predictions": _predictions,
    "predictions by none": partial(_predictions, activation=_unchanged),
    "predictions by sigmoid": partial(_predictions, activation=_sigmoid),
    "predictions by softmax": partial(_predictions, activation=_softmax),
}
