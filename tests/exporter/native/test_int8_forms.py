"""Int8 forms of a float32 model: what becomes of its weights, which products are kept, and that the file holds what was made."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from checkpoints import make_checkpoint

from cls_exporter.checkpoint import Checkpoint, load_checkpoint
from cls_exporter.config import ExportConfig
from cls_exporter.gate.parity_texts import builtin_texts
from cls_exporter.gate.prompted_batch import token_batch
from cls_exporter.native import choice, float_model, int8_forms
from cls_exporter.native.int8_model import Int8Products
from cls_exporter.native.moments import Moments, input_moments
from cls_exporter.native.ranges import Ranges, input_ranges
from cls_exporter.native.simulation import Simulation
from cls_exporter.variants import CalibrationTexts
from cls_exporter.variants.calibration import random_words, token_batches
from cls_runtime.bundle.parity import cosines
from cls_runtime.engines.native import weights_file
from cls_runtime.engines.native.reference import ReferenceEngine
from cls_runtime.engines.native.weights import NativeModel, Product, unpacked_floats, unpacked_integers

NAMES = ("query_key_value", "attention_output", "up", "down")
TEXTS = builtin_texts("calibration")[:40]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = make_checkpoint(tmp_path_factory.mktemp("int8") / "bert")
    return load_checkpoint(str(folder), config=ExportConfig(tokens=True))


@pytest.fixture(scope="module")
def model(checkpoint: Checkpoint) -> NativeModel:
    return float_model(checkpoint)


@pytest.fixture(scope="module")
def ranges(model: NativeModel, checkpoint: Checkpoint) -> Ranges:
    return input_ranges(model, token_batches(checkpoint, iter(TEXTS)))


def dense(product: Product) -> np.ndarray:
    if product.floats is not None:
        return unpacked_floats(product.floats).astype(np.float64)
    assert product.integers is not None
    assert product.scales is not None
    return unpacked_integers(product.integers) * product.scales.astype(np.float64)


def test_a_weight_is_rounded_to_the_nearest_step_of_its_column(model: NativeModel, ranges: Ranges) -> None:
    for old, new in zip(model.layers, Int8Products(model, ranges, alpha=0.5).model().layers, strict=True):
        assert new.up.integers is not None
        assert new.up.smoothing is not None
        assert new.up.scales is not None
        expected = dense(old.up) / new.up.smoothing[:, None].astype(np.float64)
        off = np.abs(dense(new.up) - expected) / new.up.scales
        assert off.max() < 0.5 + 1e-4
        steps = unpacked_integers(new.up.integers)
        assert np.abs(steps.astype(int)).max() == 127
        np.testing.assert_array_equal(new.up.sums, steps.sum(0, dtype=np.int64))


def test_the_context_is_balanced_in_the_values_columns(model: NativeModel, ranges: Ranges) -> None:
    """Values and what reads their mean, multiplied, are what they were; the reader has no smoothing of its own."""
    old, new = model.layers[0], Int8Products(model, ranges, alpha=0.5).model().layers[0]
    assert new.attention_output.smoothing is None
    assert old.query_key_value is not None
    assert new.query_key_value is not None
    assert new.query_key_value.smoothing is not None
    width = model.attention_width
    values = dense(new.query_key_value)[:, 2 * width :] * new.query_key_value.smoothing[:, None]
    through = values @ dense(new.attention_output)
    expected = dense(old.query_key_value)[:, 2 * width :] @ dense(old.attention_output)
    assert np.abs(through - expected).max() < 0.05 * np.abs(expected).max()
    before, after = old.query_key_value.bias[2 * width :], new.query_key_value.bias[2 * width :]
    factors = before[after != 0] / after[after != 0]
    assert np.ptp(np.log2(factors)) > 0.2  # something was balanced at all


def test_kept_products_stay_as_they_were(model: NativeModel, ranges: Ranges) -> None:
    first, last = model.layers
    form = Int8Products(model, ranges, alpha=0.5).model(kept=[id(last.down), id(first.query_key_value)])
    assert form.layers[1].down is last.down
    assert form.layers[1].activation == "gelu"
    assert form.layers[0].activation == "gelu_coarse"
    assert form.layers[0].query_key_value is not None
    assert form.layers[0].query_key_value.floats is not None  # its values are balanced, in float32
    assert form.layers[0].attention_output.integers is not None
    assert form.embeddings.words.dtype == np.float16


def test_words_beyond_float16_stay_in_float32(model: NativeModel, ranges: Ranges) -> None:
    words = model.embeddings.words.copy()
    words[3, 0] = 70000
    large = replace(model, embeddings=replace(model.embeddings, words=words))
    assert Int8Products(large, ranges, alpha=0.5).model().embeddings.words.dtype == np.float32


def test_a_last_layer_of_one_row_stays_in_float32(checkpoint: Checkpoint) -> None:
    one_row = float_model(load_checkpoint(str(checkpoint.folder.path)))
    made = next(int8_forms(one_row, checkpoint, CalibrationTexts.of(TEXTS)))
    assert made.layers[-1] is one_row.layers[-1]
    assert made.layers[0].down.integers is not None
    assert made.recipe["int8_products"] == 4


def test_shared_layers_stay_one(tmp_path: Path) -> None:
    checkpoint = load_checkpoint(str(make_checkpoint(tmp_path / "albert", "albert")), config=ExportConfig(tokens=True))
    model = float_model(checkpoint)
    ranges = input_ranges(model, token_batches(checkpoint, iter(TEXTS)))
    first, second = Int8Products(model, ranges, alpha=0.5).model().layers
    assert first is second


def test_each_form_keeps_more_than_the_one_before_and_the_last_all(
    model: NativeModel, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MARGIN", {"mean_cosine": 0.5})
    kept = [form.recipe["float32_products"] for form in int8_forms(model, checkpoint, CalibrationTexts.of(TEXTS))]
    assert kept == sorted(set(kept))
    assert (kept[0], kept[-1]) == (0, 8)


def test_probes_that_nothing_pleases_get_everything_in_float32(
    model: NativeModel, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choice, "MARGIN", {"mean_cosine": 1 - 1e-15})
    forms = list(int8_forms(model, checkpoint, CalibrationTexts.of(TEXTS)))
    assert [form.recipe["float32_products"] for form in forms] == [8]


@pytest.fixture(scope="module")
def moments(model: NativeModel, ranges: Ranges, checkpoint: Checkpoint) -> Moments:
    return moments_of(model, ranges, checkpoint)


def moments_of(model: NativeModel, ranges: Ranges, checkpoint: Checkpoint) -> Moments:
    batches = list(token_batches(checkpoint, iter(TEXTS)))
    return input_moments(model, Int8Products(model, ranges, alpha=0.6).factors, batches, random_words(checkpoint, iter(batches)))


def test_moments_are_integers_and_the_same_on_any_number_of_threads(
    model: NativeModel, ranges: Ranges, checkpoint: Checkpoint, moments: Moments
) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        others = moments_of(model, ranges, checkpoint)
    finally:
        torch.set_num_threads(threads)
    assert len(moments) == 8
    for key, own in moments.items():
        np.testing.assert_array_equal(own, np.rint(own))
        np.testing.assert_array_equal(own, own.T)
        np.testing.assert_array_equal(own, others[key])


def test_descent_costs_less_over_the_texts_and_leaves_scales_as_they_are(model: NativeModel, ranges: Ranges, moments: Moments) -> None:
    nearest = Int8Products(model, ranges, alpha=0.6)
    for old, new in zip(nearest.model().layers, nearest.with_moments(moments).model().layers, strict=True):
        for product, descended in ((old.up, new.up), (old.down, new.down), (old.attention_output, new.attention_output)):
            assert product.integers is not None
            assert descended.integers is not None
            np.testing.assert_array_equal(product.scales, descended.scales)
            np.testing.assert_array_equal(product.smoothing, descended.smoothing)
            off = unpacked_integers(descended.integers).astype(int) - unpacked_integers(product.integers)
            assert set(np.unique(off)) == {-1, 0, 1}
            np.testing.assert_array_equal(descended.sums, unpacked_integers(descended.integers).sum(0, dtype=np.int64))


def test_products_shared_by_forms_are_made_once(model: NativeModel, ranges: Ranges) -> None:
    made = Int8Products(model, ranges, alpha=0.6)
    assert made.model().layers[0].down is made.model(kept=[id(model.layers[0].up)]).layers[0].down
    assert made.model(kept=[id(model.layers[0].attention_output)]).layers[0].query_key_value is made.model().layers[0].query_key_value


def test_those_go_back_first_that_cost_most(model: NativeModel, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The probes are told what each product costs; one of half the size at the same price goes first."""
    prices = {id(model.layers[1].up): 8.0, id(model.layers[0].attention_output): 9.0}

    def loss(self: object, form: NativeModel) -> float:
        pairs = zip(model.layers, form.layers, strict=True)
        int8 = [id(getattr(old, name)) for old, new in pairs for name in NAMES if getattr(new, name).integers is not None]
        return sum(prices.get(key, 1e-3) for key in int8)

    monkeypatch.setattr(choice.Probes, "loss", loss)
    monkeypatch.setattr(choice, "MARGIN", {"mean_cosine": 0.5})
    forms = int8_forms(model, checkpoint, CalibrationTexts.of(TEXTS))
    assert next(forms).recipe["float32_products"] == 0
    first, second = next(forms), next(forms)
    assert first.layers[0].attention_output.floats is not None
    assert first.recipe["float32_products"] == 1
    assert second.layers[1].up.floats is not None


def test_the_file_holds_what_was_simulated_and_the_same_bytes_each_time(
    model: NativeModel, ranges: Ranges, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    for name in ("first", "second"):
        made = Int8Products(model, input_ranges(model, token_batches(checkpoint, iter(TEXTS))), alpha=0.6)
        form = made.with_moments(moments_of(model, ranges, checkpoint)).model()
        weights_file.write(form, tmp_path / name)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()
    read = weights_file.read(tmp_path / "first")
    batches = list(token_batches(checkpoint, iter(TEXTS[:8])))
    simulated = Simulation(form).outputs(batches)["sentence"]
    ids = [row for batch in batches for row in batch.input_ids.tolist()]
    (computed,) = ReferenceEngine(read).run(token_batch(ids), ["sentence_embedding"])
    assert cosines(simulated, computed).min() > 0.99999
