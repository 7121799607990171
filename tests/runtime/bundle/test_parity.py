import dataclasses
import json

import numpy as np
import pytest

from cls_runtime.bundle.manifest import EngineParity, ParityFigures, Variant
from cls_runtime.bundle.parity import (
    ENGINE_THRESHOLDS,
    THRESHOLDS,
    batch_shortfalls,
    cosines,
    parity_figures,
    recorded_shortfalls,
    shortfalls,
    thresholds_for,
    vector_bits,
)
from cls_runtime.bundle.typed_json import plain, typed

ROWS, WIDTH = 400, 64


def reference(scale=1.0):
    return (np.random.default_rng(3).standard_normal((ROWS, WIDTH)) * scale).astype(np.float32)


def turned(rows, cosine, *, count=ROWS):
    """The first `count` rows turned so that they have this cosine to what they were; the length is kept."""
    rows = rows.astype(np.float64)
    other = np.random.default_rng(4).standard_normal(rows.shape)
    other -= rows * (other * rows).sum(1, keepdims=True) / (rows * rows).sum(1, keepdims=True)
    other *= np.linalg.norm(rows, axis=1, keepdims=True) / np.linalg.norm(other, axis=1, keepdims=True)
    made = cosine * rows + np.sqrt(1 - cosine**2) * other
    made[count:] = rows[count:]
    return made.astype(np.float32)


def test_equal_rows_have_perfect_figures():
    figures = parity_figures(reference(), reference())
    assert (figures.mean_cosine, figures.p1_cosine, figures.min_cosine, figures.max_abs, figures.texts) == (1.0, 1.0, 1.0, 0.0, ROWS)
    for thresholds in THRESHOLDS.values():
        assert shortfalls(figures, thresholds) == []
        assert batch_shortfalls(figures, thresholds) == []


def test_figures_are_those_of_numpy():
    rows = reference()
    other = turned(rows, 0.9)
    figures = parity_figures(rows, other)
    expected = [float(np.dot(a, b) / np.linalg.norm(a) / np.linalg.norm(b)) for a, b in zip(rows, other, strict=True)]
    np.testing.assert_allclose(cosines(rows, other), expected, atol=1e-6)
    assert figures.mean_cosine == pytest.approx(0.9, abs=1e-6)
    assert figures.max_abs == pytest.approx(float(np.abs(rows - other).max()), rel=1e-6)


def test_the_worst_text_is_the_one_that_was_turned():
    rows = reference()
    other = rows.copy()
    other[17] = turned(rows, 0.5)[17]
    assert parity_figures(rows, other).worst_text == 17
    other = rows.copy()
    other[18] *= 1 + 1e-5  # the same direction: only the difference tells
    assert parity_figures(rows, other).worst_text == 18


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("variant", THRESHOLDS)
def test_one_number_that_is_none_fails_every_variant(value, variant):
    rows = reference()
    other = rows.copy()
    other[3, 5] = value
    figures = parity_figures(rows, other)
    assert figures.worst_text == 3
    assert figures.min_cosine == -1.0
    assert np.isfinite(figures.max_abs)  # JSON has no infinity
    assert any("min_cosine" in found for found in shortfalls(figures, THRESHOLDS[variant]))


@pytest.mark.parametrize("variant", THRESHOLDS)
def test_zeros_in_place_of_vectors_fail(variant):
    assert shortfalls(parity_figures(reference(), np.zeros((ROWS, WIDTH), np.float32)), THRESHOLDS[variant])


# For each threshold of the contract: vectors that miss this one, by a little, and the figure that must say so.
# A bound on the mean is missed by all rows alike, one on the minimum by one row of 400, one on p1 by 3% of them.
SCALE = 1e-3  # small vectors, so that turning them stays within max_abs
DAMAGED = [
    *[(variant, "mean_cosine", turned(reference(SCALE), 1 - 1.2 * (1 - bound.mean_cosine))) for variant, bound in THRESHOLDS.items()],
    *[
        (variant, "min_cosine", turned(reference(SCALE), 1 - 1.2 * (1 - bound.min_cosine), count=1))
        for variant, bound in THRESHOLDS.items()
    ],
    ("int8", "p1_cosine", turned(reference(SCALE), 1 - 1.2 * (1 - 0.998), count=12)),
]


@pytest.mark.parametrize(("variant", "figure", "damaged"), DAMAGED, ids=lambda value: value if isinstance(value, str) else "")
def test_each_cosine_threshold_is_missed_by_a_damaged_case(variant, figure, damaged):
    found = shortfalls(parity_figures(reference(SCALE), damaged), THRESHOLDS[variant])
    assert [phrase.split()[0] for phrase in found] == [figure]
    assert "expected at least" in found[0]


@pytest.mark.parametrize("variant", [name for name, bound in THRESHOLDS.items() if bound.max_abs is not None])
def test_max_abs_is_missed_by_a_longer_row(variant):
    """Cosine does not see a row of another length; max_abs does."""
    rows, bound = reference(), THRESHOLDS[variant].max_abs
    other = rows.copy()
    other[5] *= 1 + 1.2 * bound / np.abs(rows[5]).max()
    found = shortfalls(parity_figures(rows, other), THRESHOLDS[variant])
    assert [phrase.split()[0] for phrase in found] == ["max_abs"]


def test_int8_is_not_held_to_max_abs():
    assert shortfalls(parity_figures(reference(), reference() * np.float32(1.5)), THRESHOLDS["int8"]) == []


@pytest.mark.parametrize("variant", [name for name, bound in THRESHOLDS.items() if bound.batch_max_abs is not None])
def test_batch_invariance_is_missed_by_a_moved_row(variant):
    rows, bound = reference(), THRESHOLDS[variant].batch_max_abs
    other = rows.copy()
    other[5, 0] += 1.2 * bound
    found = batch_shortfalls(parity_figures(rows, other), THRESHOLDS[variant])
    assert [phrase.split()[2] for phrase in found] == ["max_abs"]
    other[5, 0] = rows[5, 0] + 0.8 * bound
    assert batch_shortfalls(parity_figures(rows, other), THRESHOLDS[variant]) == []


def test_batch_invariance_of_int8_is_missed_by_a_turned_row():
    rows = reference()
    found = batch_shortfalls(parity_figures(rows, turned(rows, 1 - 1.2e-4, count=1)), THRESHOLDS["int8"])
    assert [phrase.split()[2] for phrase in found] == ["min_cosine"]
    assert batch_shortfalls(parity_figures(rows, turned(rows, 1 - 0.8e-4, count=1)), THRESHOLDS["int8"]) == []


def test_every_threshold_has_a_damaged_case():
    bounds = {(name, field.name) for name, bound in THRESHOLDS.items() for field in dataclasses.fields(bound) if getattr(bound, field.name)}
    covered = {(variant, figure) for variant, figure, _ in DAMAGED}
    covered |= {(name, "max_abs") for name, bound in THRESHOLDS.items() if bound.max_abs}
    covered |= {(name, "batch_max_abs") for name, bound in THRESHOLDS.items() if bound.batch_max_abs} | {("int8", "batch_min_cosine")}
    assert covered == bounds


class TestNative:
    """The thresholds of the native engine, which are tighter, and its figures on record."""

    @pytest.mark.parametrize(
        ("figure", "bound", "count"), [("mean_cosine", 0.9996, ROWS), ("p1_cosine", 0.9992, 12), ("min_cosine", 0.999, 1)]
    )
    def test_int8_is_held_to_more(self, figure, bound, count):
        rows = reference(SCALE)
        figures = parity_figures(rows, turned(rows, 1 - 1.2 * (1 - bound), count=count))
        assert [phrase.split()[0] for phrase in shortfalls(figures, thresholds_for("int8", "cls", engine="native"))] == [figure]
        assert shortfalls(figures, thresholds_for("int8", "cls", engine="onnxruntime")) == []

    @pytest.mark.parametrize("variant", ["fp32", "int8"])
    @pytest.mark.parametrize("output", ["cls", "logits", "tokens"])
    def test_a_bit_that_depends_on_the_batch_is_a_miss(self, variant, output):
        rows = reference()
        other = rows.copy()
        other[5, 0] = np.nextafter(rows[5, 0], np.float32(9))
        found = batch_shortfalls(parity_figures(rows, other), thresholds_for(variant, output, engine="native"))
        assert [phrase.split()[2] for phrase in found] == ["max_abs"]
        assert batch_shortfalls(parity_figures(rows, rows), thresholds_for(variant, output, engine="native")) == []

    def test_fp32_is_held_to_pytorch_as_on_every_engine(self):
        assert dataclasses.replace(ENGINE_THRESHOLDS["native"]["fp32"], batch_max_abs=1e-5) == THRESHOLDS["fp32"]

    def test_its_figures_are_its_own(self):
        perfect = parity_figures(reference(), reference())
        good_enough = dataclasses.replace(perfect, mean_cosine=0.9994, p1_cosine=0.9985, min_cosine=0.996)
        variant = Variant(files=(), recipe={}, parity={"cls": good_enough}, batch_invariance_max_abs=0.1)
        assert recorded_shortfalls("int8", variant) == []
        assert recorded_shortfalls("int8", variant, engine="onnxruntime") == []
        assert recorded_shortfalls("int8", variant, engine="native") == ["no parity recorded for native"]

        def with_figures(**figures):
            own = EngineParity(**({"parity": {"cls": perfect}, "batch_invariance_max_abs": 0.0} | figures))
            return recorded_shortfalls("int8", dataclasses.replace(variant, engine_parity={"native": own}), engine="native")

        assert with_figures() == []
        assert with_figures(parity={}) == ["no parity recorded"]
        assert with_figures(parity={"cls": good_enough})[0].startswith("cls mean_cosine 0.99940000, expected at least 0.9996")
        assert with_figures(batch_invariance_max_abs=1e-7)[0].startswith("batch invariance max_abs 1e-07")


def test_the_bits_of_vectors_are_those_of_their_rows_in_order():
    rows = reference()
    assert vector_bits(rows) == vector_bits(np.asfortranarray(rows)) == vector_bits(rows.astype(">f4"))
    assert vector_bits(rows) != vector_bits(rows[::-1])
    other = rows.copy()
    other[7, 3] = np.nextafter(other[7, 3], np.float32(9))
    assert vector_bits(rows) != vector_bits(other)


@pytest.mark.parametrize("shape", [(0, 3), (3,)])
def test_no_rows_are_no_comparison(shape):
    with pytest.raises(ValueError, match="expected two equal, non-empty"):
        parity_figures(np.zeros(shape, np.float32), np.zeros(shape, np.float32))


def test_another_shape_is_no_comparison():
    with pytest.raises(ValueError, match=r"\(2, 3\) and \(3, 2\)"):
        parity_figures(np.zeros((2, 3), np.float32), np.zeros((3, 2), np.float32))


@pytest.mark.parametrize("value", [0.5, np.nan, np.inf])
def test_figures_survive_the_manifests_json(value):
    other = reference()
    other[3, 5] = value
    figures = parity_figures(reference(), other)
    assert typed(json.loads(json.dumps(plain(figures), allow_nan=False)), ParityFigures, "figures") == figures
