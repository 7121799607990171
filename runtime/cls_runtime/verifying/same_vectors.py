"""`assert_same_vectors`: are these the model's vectors? For the tests of whoever serves them; it needs no pytest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cls_runtime.bundle.parity import THRESHOLDS, parity_figures, shortfalls, thresholds_for
from cls_runtime.encoding.texts import Text
from cls_runtime.errors import UsageError
from cls_runtime.verifying.vector_checks import quoted, row_in_words


def assert_same_vectors(
    actual: ArrayLike, expected: ArrayLike, *, variant: str = "fp32", output: str = "cls", texts: Sequence[Text] | None = None
) -> None:
    """Raises an AssertionError unless `actual` is `expected` within the thresholds that a variant is held to at its export.

        >>> assert_same_vectors([[1.0, 2.0]], [[1.0, 2.00001]])
        >>> assert_same_vectors([[1.0, 2.0]], [[1.0, 2.1]], texts=["a text"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        AssertionError: the vectors differ: ...; worst is text 0 'a text': cosine 0.99981514, off by up to 0.1

    Args:
        actual: [n, width], what is to be checked: an array, or lists as JSON has them.
        expected: [n, width], what `Encoder.encode` or PyTorch gives for the same texts.
        variant: `fp32`, `tf32`, `fp16`, `bf16` or `int8`: the precision of the less exact of the two.
        output: `cls`, `pooler`, or `logits`, which are held to the differences alone.
        texts: the n texts, so that the message can quote the worst.

    Raises:
        AssertionError: they differ, are not of the same shape, or are none; the message names the worst text and how far it is off.
        UsageError: a variant that nobody knows.
    """
    __tracebackhide__ = True  # pytest shows the caller's line alone
    if variant not in THRESHOLDS:
        raise UsageError(f"variant is {variant!r}, expected one of {', '.join(THRESHOLDS)}")
    vectors, reference = np.asarray(actual, dtype=np.float32), np.asarray(expected, dtype=np.float32)
    if vectors.shape != reference.shape or vectors.ndim != 2 or not len(vectors):
        raise AssertionError(f"vectors have shapes {vectors.shape} and {reference.shape}, expected two equal, non-empty [n, width]")
    figures = parity_figures(reference, vectors)
    if missed := shortfalls(figures, thresholds_for(variant, output)):
        row = figures.worst_text
        name = f"row {row}" if texts is None else quoted(row, texts[row])
        raise AssertionError(f"the vectors differ: {'; '.join(missed)}; worst is {name}: {row_in_words(reference[row], vectors[row])}")
