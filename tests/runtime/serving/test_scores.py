"""Scores of logits, and which model answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from bundle_builder import build_bundle
from hypothesis import given
from hypothesis import strategies as st

from cls_runtime import Encoder
from cls_runtime.bundle.manifest import LogitsActivation
from cls_runtime.serving.models import Need, ServedModel, ServedModels
from cls_runtime.serving.refusal import Refusal
from cls_runtime.serving.scores import scores_of

ACTIVATIONS = {
    "identity": "Identity",
    "sigmoid": "Sigmoid",
    "softmax": "Softmax",
    "tanh": "Tanh",
    "relu": "ReLU",
    "gelu": "GELU",
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(rows=st.lists(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=3, max_size=3), min_size=1, max_size=5))
def test_each_activation_is_torchs(activation: LogitsActivation, rows: list[list[float]]) -> None:
    torch = pytest.importorskip("torch")
    logits = np.array(rows, dtype=np.float32)
    function = getattr(torch.nn, ACTIVATIONS[activation])(**({"dim": 1} if activation == "softmax" else {}))
    expected = function(torch.from_numpy(logits).double()).numpy()
    scores = scores_of(logits, activation)
    assert scores.dtype == np.float64
    np.testing.assert_allclose(scores, expected, rtol=1e-12, atol=1e-300)


def test_large_logits_are_told_apart() -> None:
    """A sigmoid in float32 is 1 from 17 on."""
    low, high = scores_of(np.array([[20.0], [25.0]], np.float32), "sigmoid")[:, 0]
    assert low < high < 1
    assert np.float32(low) == np.float32(high) == 1


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ServedModel, ...]]:
    """`vectors` without logits, `labels` with three, `one` and `two` with one."""
    folder = tmp_path_factory.mktemp("bundles")
    options: dict[str, dict[str, object]] = {
        "vectors": {"outputs": ("sentence_embedding",)},
        "labels": {"labels": ("a", "b", "c")},
        "one": {"label_count": 1},
        "two": {"label_count": 1},
    }
    made = [
        ServedModel((name, f"org/{name}"), Encoder.load(build_bundle(folder / name, **how), threads=1), 1) for name, how in options.items()
    ]
    yield tuple(made)
    for model in made:
        model.encoder.close()


@pytest.mark.parametrize(("needs", "first"), [("vectors", "vectors"), ("logits", "labels"), ("score", "one")])
def test_the_first_that_can_answers_who_names_none(models: tuple[ServedModel, ...], needs: Need, first: str) -> None:
    served = ServedModels(models)
    assert served.find(None, needs=needs).name == served.find("", needs=needs).name == first
    assert ServedModels(models, any_name=True).find("text-embedding-3-small", needs=needs).name == first
    for name in ("two", "org/two"):
        assert served.find(name, needs=needs).name == ServedModels(models, any_name=True).find(name, needs=needs).name == "two"


def test_why_a_model_cannot(models: tuple[ServedModel, ...]) -> None:
    served = ServedModels(models)

    def refusal(name: str | None, needs: Need, *, of: ServedModels = served) -> Refusal:
        with pytest.raises(Refusal) as caught:
            of.find(name, needs=needs)
        return caught.value

    assert refusal("labels", "score").message == "labels has 3 logits, expected one, the score; name one, two"
    assert refusal("vectors", "logits").message == "vectors has no logits, expected a classifier; name labels, one, two"
    assert (refusal("vectors", "score").kind, refusal("vectors", "score").param) == ("unsupported", "model")
    few = ServedModels(models[:2])
    for name in (None, ""):
        found = refusal(name, "score", of=few)
        assert found.message == (
            "vectors has no logits, labels has 3 logits, expected one, the score; serve a bundle exported with --logits"
        )
        assert (found.kind, found.param) == ("unsupported", None)
    assert refusal("other", "score").code == "model_not_found"
    assert refusal("other", "score").status == 404


def test_labels(models: tuple[ServedModel, ...], tmp_path: Path) -> None:
    assert [model.labels for model in models] == [(), ("a", "b", "c"), ("LABEL_0",), ("LABEL_0",)]
