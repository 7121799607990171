"""The int8 variant: fixed activation scales, int8 weights by column, outliers smoothed by an exponent that is searched for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes import common

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.errors import GraphError, UnsupportedError
from cls_exporter.graph.passes.batched_quantization import BatchedQuantization
from cls_exporter.graph.passes.half_storage import HalfStorage
from cls_exporter.graph.passes.int8_embeddings import Int8Embeddings
from cls_exporter.graph.passes.integer_products import IntegerProducts
from cls_exporter.graph.passes.sequence_first import SequenceFirst
from cls_exporter.graph.passes.smoothing import ChannelRange, Smoothing, smoothing_factors
from cls_exporter.graph.passes.static_quantization import StaticQuantization
from cls_exporter.graph.passes.token_rows import TokenRows, token_products
from cls_exporter.graph.pipeline import apply_pass, clean
from cls_exporter.variants.bias_correction import corrected_biases, set_biases
from cls_exporter.variants.calibration import (
    CalibrationTexts,
    activation_ranges,
    merged,
    sentence_embeddings,
    token_batches,
    with_quiet_channels_raised,
)
from cls_exporter.variants.variant import Built
from cls_runtime.bundle.manifest import ParityFigures
from cls_runtime.bundle.parity import THRESHOLDS, parity_figures
from cls_runtime.engines.base import TokenBatch

Float32 = NDArray[np.float32]

ALPHAS = (0.6, 0.7, 0.8, 0.85, 0.9)
WEIGHT_BITS = 8
SEARCH_TEXTS = 96
CORRECTION_TEXTS = 448


def build_int8(model: ir.Model, *, checkpoint: Checkpoint, texts: CalibrationTexts) -> Built:
    """Quantizes a compiled fp32 graph; `model` is left as it was. docs/adr/0003-int8-recipe.md says why so.

    Raises:
        UnsupportedError: the graph has no product over all tokens (a model of one layer: it is pruned to one row as it is).
    """
    rows = _as_rows(model)
    step = max(2, texts.count // SEARCH_TEXTS)
    probes = list(token_batches(checkpoint, islice(texts.open(), 0, step * SEARCH_TEXTS, step)))
    others = activation_ranges(rows, token_batches(checkpoint, _without_every(texts.open(), step)))
    ranges = merged(others, activation_ranges(rows, probes)) if others else activation_ranges(rows, probes)
    found = _search(rows, others or ranges, probes)
    alpha = min(found, key=lambda item: _used_up(found[item]))
    built = _quantized(rows, ranges, _spread(checkpoint, texts, CORRECTION_TEXTS), alpha=alpha)
    products = len(token_products(built))
    batched = model.clone()
    apply_pass(BatchedQuantization(built), batched)
    apply_pass(IntegerProducts(), built)
    (tables, constants), _ = _stored_small(built), _stored_small(batched)
    recipe = {
        "weights": f"int{WEIGHT_BITS}, symmetric, a scale for each column",
        "activations": "uint8, one fixed scale and zero point for each tensor",
        "compute": "int8 products over all tokens; attention, LayerNorm, GELU and the last layer's single row in float32",
        "smoothing_alpha": alpha,
        "alphas_tried": {str(tried): [round(found[tried].mean_cosine, 6), round(found[tried].p1_cosine, 6)] for tried in found},
        "bias_correction": True,
        "int8_products": products,
        "int8_embedding_lookups": tables,
        "float16_stored_constants": constants,
        "calibration_texts": texts.count,
        "calibration_sha256": texts.sha256,
    }
    tried = ", ".join(f"{tried:g}: {figures.mean_cosine:.5f} and {figures.p1_cosine:.5f}" for tried, figures in found.items())
    words = f"smoothing exponents, mean and p1 cosine on calibration texts {tried}"
    return Built(model=built, recipe=recipe, tried=words, engine_models={"openvino": batched})


def _stored_small(model: ir.Model) -> tuple[int, int]:
    """Stores embedding tables as int8 and other large constants as float16, and says how many of each."""
    counts = apply_pass(Int8Embeddings(), model), apply_pass(HalfStorage(), model)
    clean(model)
    return counts


def _search(rows: ir.Model, ranges: Mapping[str, ChannelRange], probes: list[TokenBatch]) -> dict[float, ParityFigures]:
    """The figures of each exponent on `probes`. `ranges` are other texts', so what a probe loses beyond them counts too."""
    reference = sentence_embeddings(rows, probes)
    return {
        alpha: parity_figures(reference, sentence_embeddings(_quantized(rows, ranges, probes, alpha=alpha), probes)) for alpha in ALPHAS
    }


def _used_up(figures: ParityFigures) -> float:
    """How much of the thresholds' room is used up, at the tightest of them: 1 is exactly at a threshold."""
    bounds = THRESHOLDS["int8"]
    pairs = ((figures.mean_cosine, bounds.mean_cosine), (figures.p1_cosine, bounds.p1_cosine), (figures.min_cosine, bounds.min_cosine))
    return max((1 - found) / (1 - bound) for found, bound in pairs if bound is not None)


def _without_every(texts: Iterator[str], step: int) -> Iterator[str]:
    return (text for place, text in enumerate(texts) if place % step)


def _as_rows(model: ir.Model) -> ir.Model:
    rows = model.clone()
    if not apply_pass(SequenceFirst(), rows):
        raise GraphError("no attention of this graph splits [B, S, H] into heads as expected; please report it")
    if not apply_pass(TokenRows(), rows):
        raise UnsupportedError("int8 has nothing to quantize: no product of this graph runs over all tokens; export fp32")
    clean(rows)
    return rows


def _quantized(rows: ir.Model, ranges: Mapping[str, ChannelRange], probes: list[TokenBatch], *, alpha: float) -> ir.Model:
    """A copy of `rows` with int8 products, smoothed by `alpha`, biases corrected on `probes`."""
    ranges = with_quiet_channels_raised(rows, ranges)
    smoothed = rows.clone()
    factors = smoothing_factors(smoothed, ranges, alpha=alpha)
    Smoothing(factors)(smoothed)
    divided = {name: ranges[name].divided(factors[name]) for name in factors}
    after = {**ranges, **divided, **{f"{name}.smoothed": found for name, found in divided.items()}}
    set_biases(smoothed, corrected_biases(smoothed, after, probes, weight_bits=WEIGHT_BITS))
    StaticQuantization(after, weight_bits=WEIGHT_BITS)(smoothed)
    common.RemoveUnusedNodesPass()(smoothed)
    return smoothed


def _spread(checkpoint: Checkpoint, texts: CalibrationTexts, count: int) -> list[TokenBatch]:
    """At most `count` of the texts, evenly spread over them, as batches."""
    step = max(1, texts.count // count)
    return list(token_batches(checkpoint, islice(texts.open(), 0, step * count, step)))
