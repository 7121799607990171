import numpy as np
import pytest

from cls_runtime import UsageError, assert_same_vectors
from cls_runtime.bundle.parity import THRESHOLDS

RIGHT = np.eye(3, 4, dtype=np.float32) + 1


def off_by(difference, *, row=1):
    vectors = RIGHT.copy()
    vectors[row, 3] += difference
    return vectors


def refused(actual, expected=RIGHT, **options):
    with pytest.raises(AssertionError) as caught:
        assert_same_vectors(actual, expected, **options)
    return str(caught.value)


@pytest.mark.parametrize("variant", THRESHOLDS)
def test_equal_vectors_are_the_same_also_as_lists(variant):
    """The function is the assertion: it raises where they are not."""
    assert_same_vectors(RIGHT, RIGHT, variant=variant)
    assert_same_vectors(RIGHT.tolist(), RIGHT, variant=variant, texts=["a", "b", "c"])


@pytest.mark.parametrize(
    ("variant", "passes", "fails"),
    [("fp32", 2e-5, 2e-4), ("fp16", 0.01, 0.1), ("tf32", 0.002, 0.02), ("bf16", 0.05, 0.1), ("int8", 0.1, 1.0)],
)
def test_each_variant_is_held_to_its_own_thresholds(variant, passes, fails):
    assert_same_vectors(off_by(passes), RIGHT, variant=variant)
    assert refused(off_by(fails), variant=variant).startswith("the vectors differ: ")


def test_the_worst_text_is_named_with_how_far_it_is_off():
    message = refused(off_by(0.01), texts=["a", "the middle", "c"])
    assert "max_abs 0.01, expected at most 5e-05; worst is text 1 'the middle': cosine 0.9999" in message
    assert message.endswith("off by up to 0.01")
    assert "worst is row 2: cosine 0.9999" in refused(off_by(0.01, row=2))


def test_logits_are_held_to_differences_alone():
    logits = np.array([[1e-6, 1e-6]], dtype=np.float32)
    assert_same_vectors(-logits, logits, output="logits")
    assert "min_cosine -1.0" in refused(-logits, logits)


@pytest.mark.parametrize(
    ("actual", "expected"),
    [(RIGHT[:2], RIGHT), (RIGHT[:, :2], RIGHT), (RIGHT[0], RIGHT[0]), (RIGHT[:0], RIGHT[:0])],
    ids=lambda rows: str(rows.shape),
)
def test_other_shapes_are_not_the_same(actual, expected):
    message = refused(actual, expected)
    assert message == f"vectors have shapes {actual.shape} and {expected.shape}, expected two equal, non-empty [n, width]"


def test_a_number_that_is_none_is_not_the_same():
    assert "mean_cosine -1.00000000, expected at least 0.999" in refused(RIGHT * np.nan, variant="int8")


def test_a_variant_that_nobody_knows_is_refused():
    with pytest.raises(UsageError, match="variant is 'int4', expected one of fp32, fp16, tf32, bf16, int8"):
        assert_same_vectors(RIGHT, RIGHT, variant="int4")
