"""Every engine takes a batch as it is, and gives the rows of all its tokens one text after another."""

import numpy as np
import pytest
from bundle_builder import HIDDEN, MAX_LENGTH, build_bundle

from cls_runtime import Bundle
from cls_runtime.encoding.tokens import TokenizedTexts
from cls_runtime.engines.choice import engine_module

TEXTS = [[2, 5, 3], [2, 5, 6, 7, 3], [2, 3], [2, *[8] * (MAX_LENGTH - 2), 3], [2, 6, 3]]
OUTPUTS = ["last_hidden_state", "sentence_embedding"]


@pytest.fixture(scope="module")
def with_tokens(tmp_path_factory):
    return Bundle.open(build_bundle(tmp_path_factory.mktemp("tokens") / "tokens", pooling="mean", token_rows=True))


@pytest.fixture(params=["onnxruntime", "openvino"])
def engine(request, with_tokens):
    pytest.importorskip("openvino.properties" if request.param == "openvino" else request.param)
    loaded = engine_module(request.param).load(with_tokens, variant="fp32", threads=2)
    yield loaded
    loaded.close()


def batch_of(texts):
    return TokenizedTexts.of(texts, [[0] * len(text) for text in texts]).batch(np.arange(len(texts)), pad_id=0)


@pytest.mark.parametrize("texts", [TEXTS, TEXTS[:1], TEXTS[2:3] * 7])
def test_rows_are_those_of_each_text_alone(engine, texts):
    tokens, sentences = engine.run(batch_of(texts), OUTPUTS)
    assert tokens.shape == (sum(map(len, texts)), HIDDEN)
    assert sentences.shape == (len(texts), HIDDEN)
    ends = np.cumsum([len(text) for text in texts])
    for text, of_text, sentence in zip(texts, np.split(tokens, ends[:-1]), sentences, strict=True):
        alone, mean = engine.run(batch_of([text]), OUTPUTS)
        np.testing.assert_allclose(of_text, alone, rtol=0, atol=1e-5)
        np.testing.assert_allclose(sentence, mean[0], rtol=0, atol=1e-5)


def test_what_padding_costs_is_said(engine):
    assert engine.padding_tokens(batch_of([TEXTS[3]])) == 0
    assert engine.padding_tokens(batch_of([[2, 5, 5, 5, 5, 5, 5, 3], [2, 5, 3, 3]])) == 4
