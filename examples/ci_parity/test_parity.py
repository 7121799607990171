"""Tests that guard a model in CI: `pytest --cls-bundle models/bge-small-en-v1.5`.

The option adds every check of `cls-verify` to the run: the files' hashes, the tokens, and the vectors that PyTorch gave at export. The
tests below guard what your service makes of the model. pytest finds the fixtures by itself where cls-export is installed.
"""

from __future__ import annotations

import json

import numpy as np


def vectors_of_the_service(encoder, texts):
    """Stands for your service: a client's call and the JSON that it answers."""
    return json.loads(json.dumps([encoder.encode([text])[0].tolist() for text in texts]))


def test_the_service_returns_the_models_vectors(cls_encoder, assert_same_vectors):
    texts = ["How do I reset my password?", "A cat sleeps on the roof.", "x"]
    served = vectors_of_the_service(cls_encoder, texts)
    assert_same_vectors(served, cls_encoder.encode(texts), variant=cls_encoder.info.variant, texts=texts)


def test_a_text_has_the_same_vector_in_any_batch(cls_encoder):
    texts = ["short", "a text of some more words than the one before it", "a third"]
    together = cls_encoder.encode(texts)
    alone = np.concatenate([cls_encoder.encode([text]) for text in texts])
    cosines = (together * alone).sum(axis=1) / (np.linalg.norm(together, axis=1) * np.linalg.norm(alone, axis=1))
    assert (cosines > 0.9999).all()
