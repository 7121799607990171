"""The int8 variant: fixed activation scales, int8 weights by column, outliers smoothed by an exponent that is searched for.

Every number that decides a byte of the file is measured in float64 or in integers (`exact_run`, `weight_rounding`): the same checkpoint and
the same texts give the same file on every CPU. docs/adr/0003-int8-recipe.md says why the recipe is what it is.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import UnsupportedError
from cls_exporter.graph.families import Form, form_of
from cls_exporter.graph.passes.batched_quantization import BatchedQuantization
from cls_exporter.graph.passes.half_storage import HalfStorage
from cls_exporter.graph.passes.int8_embeddings import Int8Embeddings
from cls_exporter.graph.passes.integer_products import IntegerProducts
from cls_exporter.graph.passes.rewriting import constant
from cls_exporter.graph.passes.sequence_first import SequenceFirst
from cls_exporter.graph.passes.smoothing import ChannelRange, Smoothing, smoothing_factors
from cls_exporter.graph.passes.static_quantization import InputScale, QuantizedWeight, StaticQuantization
from cls_exporter.graph.passes.token_rows import TokenRows, token_products
from cls_exporter.graph.pipeline import apply_pass, clean
from cls_exporter.variants.bias_correction import corrected_biases, set_biases
from cls_exporter.variants.calibration import (
    InputMeans,
    activation_ranges,
    input_moments,
    merged,
    random_words,
    sentence_embeddings,
    token_batches,
    with_quiet_channels_raised,
)
from cls_exporter.variants.calibration_texts import CalibrationTexts
from cls_exporter.variants.kept_products import keepings
from cls_exporter.variants.variant import Built
from cls_exporter.variants.weight_rounding import round_by_descent, round_to_nearest
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.parity import THRESHOLDS, parity_figures
from cls_runtime.engines.padding import PaddedBatch

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ALPHAS = (0.9, 0.85, 0.8, 0.7, 0.6)
SEARCH_TEXTS = 96
CORRECTION_TEXTS = 448
# How much of a channel's largest square is added to its mean square before weights are rounded: other texts will use channels that those
# of the calibration hardly did.
UNSEEN = 0.01
_COMPUTE_OF_ONE_ROW = "int8 products over all tokens; attention, LayerNorm, GELU and the last layer's single row in float32"
_COMPUTE_OF_ALL_ROWS = "int8 products over all tokens but as many as float32_products says; these, attention, LayerNorm and GELU in float32"
# How much of the thresholds' room the probes may use up, so that products stay in int8: other texts need more of it.
ROOM = 0.5
_LARGEST_BIAS = 2.0**30  # of an int32 that the kernel still adds products to
_SCALE_BITS = 8


def build_int8(model: ir.Model, *, checkpoint: Checkpoint, texts: CalibrationTexts) -> Built:
    """Quantizes a compiled fp32 graph; `model` is left as it was.

    Raises:
        UnsupportedError: the graph has no product over all tokens (a model of one layer: it is pruned to one row as it is).
        GraphError: its attention is of another form than int8 knows, and no setting of the checkpoint explains it.
    """
    form = form_of(checkpoint)
    count = texts.count
    if not form.one_row:
        texts = texts.with_beginnings()
    step = max(2, texts.count // SEARCH_TEXTS)
    probes = list(token_batches(checkpoint, islice(texts.open(), 0, step * SEARCH_TEXTS, step)))
    rows, kept, notes = _with_room(model, form, probes)
    others = activation_ranges(rows, token_batches(checkpoint, _without_every(texts.open(), step)))
    if not form.one_row:  # a short text has no other tokens that make up for one whose numbers are clipped
        others = merged(others, activation_ranges(rows, random_words(checkpoint, token_batches(checkpoint, texts.open()))))
    ranges = merged(others, activation_ranges(rows, probes))
    reference = sentence_embeddings(rows, probes)
    by_alpha = _search(rows, others or ranges, probes, reference)
    alpha = min(by_alpha, key=lambda item: _used_up(by_alpha[item]))
    forms = _rounded(_smoothed(rows, ranges, alpha=alpha), checkpoint, texts)
    by_rounding = {name: parity_figures(reference, sentence_embeddings(form, probes)) for name, form in forms.items()}
    rounding = min(by_rounding, key=lambda item: _used_up(by_rounding[item]))
    built = forms[rounding]
    products = len(token_products(built))
    batched = model.clone()
    apply_pass(BatchedQuantization(built), batched)
    apply_pass(IntegerProducts(), built)
    (tables, constants), _ = _stored_small(built), _stored_small(batched)
    recipe = {
        "weights": "int8, symmetric, a scale for each column, two neighbours of a column at most 128 together: no kernel saturates",
        "activations": "uint8, one fixed scale and zero point for each tensor",
        "compute": _COMPUTE_OF_ONE_ROW if form.one_row else _COMPUTE_OF_ALL_ROWS,
        "smoothing_alpha": alpha,
        "alphas_tried": _told(by_alpha),
        "weight_rounding": rounding,
        "roundings_tried": _told(by_rounding),
        "bias_correction": True,
        "int8_products": products,
        "float32_products": len(kept),
        "int8_embedding_lookups": tables,
        "float16_stored_constants": constants,
        "calibration_texts": count,
        "calibration_sha256": texts.sha256,
    }
    return Built(model=built, recipe=recipe, tried=_in_words(by_alpha, by_rounding), engine_models={"openvino": batched}, notes=notes)


def _told(tried: Mapping[Any, ParityFigures]) -> dict[str, list[float]]:
    """Mean and 1st percentile cosine of each thing tried, for the manifest."""
    return {str(name): [round(figures.mean_cosine, 6), round(figures.p1_cosine, 6)] for name, figures in tried.items()}


def _in_words(*tried: Mapping[Any, ParityFigures]) -> str:
    figures = [f"{name}: {mean:.5f} and {p1:.5f}" for part in tried for name, (mean, p1) in _told(part).items()]
    return f"smoothing exponents, then ways to round weights, mean and p1 cosine on calibration texts {', '.join(figures)}"


def _stored_small(model: ir.Model) -> tuple[int, int]:
    """Stores embedding tables as int8 and other large constants as float16, and says how many of each."""
    counts = apply_pass(Int8Embeddings(), model), apply_pass(HalfStorage(), model)
    clean(model)
    return counts


def _search(
    rows: ir.Model, ranges: Mapping[str, ChannelRange], probes: Sequence[PaddedBatch], reference: Float32
) -> dict[float, ParityFigures]:
    """The figures of exponents on `probes`, from the largest on until they no longer get better.

    `ranges` are other texts', so what a probe loses beyond them counts too. Weights are rounded to the nearest step and biases are as they
    were: that costs every exponent about the same.
    """
    tried: dict[float, ParityFigures] = {}
    for alpha in ALPHAS:
        tried[alpha] = parity_figures(reference, sentence_embeddings(_nearest(rows, ranges, alpha=alpha), probes))
        if _used_up(tried[alpha]) > min(map(_used_up, tried.values())):
            break
    return tried


def _nearest(rows: ir.Model, ranges: Mapping[str, ChannelRange], *, alpha: float) -> ir.Model:
    """A copy with int8 products, weights at the nearest step and biases as they were."""
    smoothed = _smoothed(rows, ranges, alpha=alpha)
    weights = {name: round_to_nearest(weight.array, least_scales=weight.least_scales) for name, weight in _weights(smoothed).items()}
    return _quantized(smoothed, weights, {})


def _used_up(figures: ParityFigures) -> float:
    """How much of the thresholds' room is used up, at the tightest of them: 1 is exactly at a threshold."""
    bounds = THRESHOLDS["int8"]
    pairs = ((figures.mean_cosine, bounds.mean_cosine), (figures.p1_cosine, bounds.p1_cosine), (figures.min_cosine, bounds.min_cosine))
    return max((1 - cosine) / (1 - bound) for cosine, bound in pairs if bound is not None)


def _without_every(texts: Iterator[str], step: int) -> Iterator[str]:
    return (text for place, text in enumerate(texts) if place % step)


def _spread(texts: CalibrationTexts, count: int) -> Iterator[str]:
    """At most `count` of the texts, evenly spread over them."""
    step = max(1, texts.count // count)
    return islice(texts.open(), 0, step * count, step)


def _with_room(model: ir.Model, form: Form, probes: Sequence[PaddedBatch]) -> tuple[ir.Model, frozenset[str], tuple[str, ...]]:
    """The graph with its tokens as rows, the weights whose products stay in float32, and notes on what is slower than usual.

    As many products as the probes leave room for become int8. Tried is the largest exponent, with weights at the nearest step: what is
    chosen later is no worse.
    """
    *tries, last = keepings(model, form)
    for kept in tries:
        rows, notes = _as_rows(model, form, kept)
        ranges, reference = activation_ranges(rows, probes), sentence_embeddings(rows, probes)
        if _used_up(parity_figures(reference, sentence_embeddings(_nearest(rows, ranges, alpha=ALPHAS[0]), probes))) <= ROOM:
            return rows, kept, notes
    rows, notes = _as_rows(model, form, last)
    return rows, last, notes


def _as_rows(model: ir.Model, form: Form, kept: frozenset[str] = frozenset()) -> tuple[ir.Model, tuple[str, ...]]:
    """The graph with its tokens as rows but for the products of `kept`, and notes on what is slower than usual."""
    rows = model.clone()  # once: a clone counts names anew, and a graph's bytes have them
    notes = () if apply_pass(SequenceFirst(), rows) else (form.missed("no attention splits [B, S, H] into heads as int8 has it"),)
    if not apply_pass(TokenRows(kept=kept), rows):
        raise UnsupportedError("int8 has nothing to quantize: no product of this graph runs over all tokens; export fp32")
    clean(rows)
    return rows, notes


@dataclass(frozen=True)
class _Smoothed:
    """A float32 graph whose outlier channels were moved into weights.

    `scales` are of each product's input, by name; `reach` says how many steps from zero each of its channels is expected to go, [K].
    """

    model: ir.Model
    scales: Mapping[str, InputScale]
    reach: Mapping[str, Float64]


def _smoothed(rows: ir.Model, ranges: Mapping[str, ChannelRange], *, alpha: float) -> _Smoothed:
    ranges = with_quiet_channels_raised(rows, ranges)
    model = rows.clone()
    factors = smoothing_factors(model, ranges, alpha=alpha)
    Smoothing(factors)(model)
    scales: dict[str, InputScale] = {}
    reach: dict[str, Float64] = {}
    for name in factors:
        divided = ranges[name].divided(factors[name])
        scale = _input_scale(divided)
        # The value that products read is another one where a Mul of its own divides it.
        for read in (name, f"{name}.smoothed"):
            scales[read], reach[read] = scale, divided.largest / float(scale.scale)
    return _Smoothed(model, scales, reach)


def _input_scale(channels: ChannelRange) -> InputScale:
    """One scale for all channels, with room for zero; few bits of it, so that it does not depend on the last ones of a range."""
    low, high = min(float(channels.low.min()), 0.0), max(float(channels.high.max()), 0.0)
    fraction, exponent = math.frexp(max(high - low, 1e-6) / 255)
    scale = math.ldexp(math.ceil(math.ldexp(fraction, _SCALE_BITS)), exponent - _SCALE_BITS)
    return InputScale(np.float32(scale), np.uint8(np.clip(np.rint(-low / scale), 0, 255)))


@dataclass(frozen=True)
class _Weight:
    """A weight of products over all tokens [K, N], its inputs' names, and the least scale [N] with which each bias fits in an int32."""

    array: Float32
    inputs: tuple[str, ...]
    least_scales: Float64


def _weights(smoothed: _Smoothed) -> dict[str, _Weight]:
    """Each weight once, by name: several products may have the same (ALBERT's layers)."""
    weights: dict[str, _Weight] = {}
    for node in token_products(smoothed.model):
        value, weight = node.inputs[:2]
        name, read = str(weight.name), str(value.name)  # type: ignore[union-attr]
        array = np.asarray(constant(weight), dtype=np.float32)
        bias = np.asarray(constant(node.inputs[2]), dtype=np.float64) if len(node.inputs) > 2 else np.zeros(array.shape[1])
        least = np.abs(bias) / (float(smoothed.scales[read].scale) * _LARGEST_BIAS)
        known = weights.get(name, _Weight(array, (), least))
        weights[name] = _Weight(array, (*known.inputs, read), np.maximum(known.least_scales, least))
    return weights


def _rounded(smoothed: _Smoothed, checkpoint: Checkpoint, texts: CalibrationTexts) -> dict[str, ir.Model]:
    """The quantized graph with weights rounded in each way, by the way's name; biases corrected."""

    def batches() -> Iterator[PaddedBatch]:
        return token_batches(checkpoint, _spread(texts, CORRECTION_TEXTS))

    def words() -> Iterator[PaddedBatch]:
        return random_words(checkpoint, batches())

    weights = _weights(smoothed)
    ways: dict[str, dict[str, QuantizedWeight]] = {"descent": {}, "nearest": {}}
    means: dict[str, InputMeans] = {}
    sums: dict[str, Float64] = {}
    for name, moments in input_moments(smoothed.model, smoothed.scales, batches, words):
        means[name] = moments.means
        products = moments.products + np.diag(np.rint(UNSEEN * moments.weight * smoothed.reach[name] ** 2))
        for key, weight in weights.items():
            if name in weight.inputs:
                sums[key] = sums[key] + products if key in sums else products
                if set(weight.inputs) <= set(means):
                    ways["descent"][key] = round_by_descent(weight.array, sums.pop(key), least_scales=weight.least_scales)
    for key, weight in weights.items():
        ways["nearest"][key] = round_to_nearest(weight.array, least_scales=weight.least_scales)
    return {
        way: _quantized(smoothed, stored, corrected_biases(smoothed.model, smoothed.scales, stored, means)) for way, stored in ways.items()
    }


def _quantized(smoothed: _Smoothed, weights: Mapping[str, QuantizedWeight], biases: Mapping[str, Float32]) -> ir.Model:
    """A copy with int8 products."""
    model = smoothed.model.clone()
    set_biases(model, biases)
    StaticQuantization(smoothed.scales, weights)(model)
    common.RemoveUnusedNodesPass()(model)
    return model
