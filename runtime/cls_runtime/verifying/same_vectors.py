"""`assert_same_vectors`: for the tests of a service; it needs no pytest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike

from cls_runtime.bundle.parity import THRESHOLDS, parity_figures, shortfalls, thresholds_for
from cls_runtime.encoding.texts import Text
from cls_runtime.option_checks import check_choice
from cls_runtime.verifying.vector_checks import quoted, row_in_words


def assert_same_vectors(
    actual: ArrayLike, expected: ArrayLike, *, variant: str = "fp32", output: str = "cls", texts: Sequence[Text] | None = None
) -> None:
    """Raises an AssertionError unless `actual` equals `expected` within the thresholds that an export of the variant must meet.

        >>> assert_same_vectors([[1.0, 2.0]], [[1.0, 2.00001]])
        >>> assert_same_vectors([[1.0, 2.0]], [[1.0, 2.1]], texts=["a text"])  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        AssertionError: the vectors differ: ...; worst is text 0 'a text': cosine 0.99981514, off by up to 0.1

    Args:
        actual: [n, width], the vectors to check: an array, or lists as in JSON.
        expected: [n, width], the vectors of `Encoder.encode` or PyTorch for the same texts.
        variant: `fp32`, `tf32`, `fp16`, `bf16` or `int8`: the less exact of the two precisions.
        output: `cls`, `pooler` or `logits`; logits must meet only the largest difference.
        texts: the n texts, so that the message can quote the worst.

    Raises:
        AssertionError: the vectors differ, have different shapes, or there are none; the message names the worst text and its difference.
        UsageError: an unknown variant.
    """
    __tracebackhide__ = True  # pytest shows the caller's line alone
    check_choice("variant", variant, tuple(THRESHOLDS))
    vectors, reference = np.asarray(actual, dtype=np.float32), np.asarray(expected, dtype=np.float32)
    if vectors.shape != reference.shape or vectors.ndim != 2 or not len(vectors):
        raise AssertionError(f"vectors have shapes {vectors.shape} and {reference.shape}, expected two equal, non-empty [n, width]")
    figures = parity_figures(reference, vectors)
    if missed := shortfalls(figures, thresholds_for(variant, output)):
        row = figures.worst_text
        name = f"row {row}" if texts is None else quoted(row, texts[row])
        raise AssertionError(f"the vectors differ: {'; '.join(missed)}; worst is {name}: {row_in_words(reference[row], vectors[row])}")
