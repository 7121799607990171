"""Which exponent balances a model's channels, and which products become int8: what held-out calibration texts say.

Of a model whose outputs are of one row, the last layer stays in float32: it costs little there, and its errors would reach the vector
unaveraged. Where every row counts all products begin as int8, and as many go back as the texts ask for, the last layers' first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
import torch

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.trial import outputs_of
from cls_exporter.native.int8_model import int8_model
from cls_exporter.native.ranges import Ranges, input_ranges, merged
from cls_exporter.native.reasons import NotNativeError
from cls_exporter.native.simulation import Simulation
from cls_exporter.variants.calibration import token_batches
from cls_exporter.variants.calibration_texts import CalibrationTexts
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.bundle.variant import ParityFigures
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import Layer, NativeModel, Product
from cls_runtime.engines.padding import PaddedBatch

ALPHAS = (0.4, 0.5, 0.6, 0.7)
FIRST_ALPHA = 0.6
PROBE_TEXTS = 96
RANGE_TEXTS = 160
# What the probes must reach, with margin to the gate's bounds: other texts need more.
MARGIN = {"mean_cosine": 0.9997, "p1_cosine": 0.9993, "min_cosine": 0.999}
_ROWS = 4096  # of every token's, that are compared

Vectors = Mapping[str, Float32]


def check_follows(model: NativeModel, checkpoint: Checkpoint, texts: Sequence[str]) -> None:
    """Holds a float32 model to PyTorch, before anything is made of it.

    Raises:
        NotNativeError: it computes something else.
    """
    batches = list(token_batches(checkpoint, iter(texts)))
    vectors = Simulation(model).outputs(batches)
    names: list[str] = ["sentence" if name == "cls" else name for name in checkpoint.model.output_names]
    expected: dict[str, list[Float32]] = {name: [] for name in names}
    for batch in batches:
        outputs = outputs_of(checkpoint, [torch.from_numpy(getattr(batch, name)) for name in checkpoint.inputs])
        for name, output in zip(names, outputs, strict=True):
            expected[name].append(output.reshape(-1, output.shape[-1]).numpy())
    for held, rows in expected.items():
        figures = parity_figures(np.concatenate(rows), vectors[held])
        if missed := shortfalls(figures, thresholds_for("fp32", held, engine="native")):
            raise NotNativeError(f"something of {checkpoint.architecture.model_type} with its settings: {held} would have {missed[0]}")


@dataclass(frozen=True, kw_only=True, eq=False)
class _Probes:
    """Held-out texts, and the float32 model's vectors of them."""

    batches: Sequence[PaddedBatch]
    vectors: Vectors

    def figures(self, model: NativeModel) -> list[ParityFigures]:
        """Of every output that cosines say something of."""
        vectors = Simulation(model).outputs(self.batches)
        return [parity_figures(_some(rows), _some(vectors[name])) for name, rows in self.vectors.items() if name != "logits"]


def int8_forms(model: NativeModel, checkpoint: Checkpoint, texts: CalibrationTexts) -> Iterator[NativeModel]:
    """Forms with int8 products, each with more of them in float32 than the one before: from the first that the probes are content with."""
    if model.layers[-1].one_row is None:
        texts = texts.with_beginnings()
    step = max(2, texts.count // PROBE_TEXTS)
    batches = list(token_batches(checkpoint, islice(texts.open(), 0, step * PROBE_TEXTS, step)))
    probes = _Probes(batches=batches, vectors=Simulation(model).outputs(batches))
    ranges = input_ranges(model, token_batches(checkpoint, _others(texts, step)))
    tried = _search(model, ranges, probes)
    alpha = min(tried, key=lambda item: _used_up(tried[item]))
    told = {str(item): [round(figures[0].mean_cosine, 6), round(figures[0].p1_cosine, 6)] for item, figures in tried.items()}
    ranges = merged(ranges, input_ranges(model, batches))
    content = False
    for kept in _keepings(model):
        form = int8_model(model, ranges, alpha=alpha, kept=[id(product) for product in kept])
        content = content or _used_up(tried[alpha] if not kept else probes.figures(form)) <= 1
        if content:
            yield _told(form, alpha=alpha, tried=told, texts=texts)
    if not content:
        yield _told(form, alpha=alpha, tried=told, texts=texts)


def _search(model: NativeModel, ranges: Ranges, probes: _Probes) -> dict[float, list[ParityFigures]]:
    """The figures of exponents on either side of the first, as far as they get better."""
    tried = {FIRST_ALPHA: probes.figures(int8_model(model, ranges, alpha=FIRST_ALPHA))}
    first = ALPHAS.index(FIRST_ALPHA)
    for side in (ALPHAS[first + 1 :], ALPHAS[:first][::-1]):
        for alpha in side:
            tried[alpha] = probes.figures(int8_model(model, ranges, alpha=alpha))
            if _used_up(tried[alpha]) > min(map(_used_up, tried.values())):
                break
    return tried


def _told(form: NativeModel, *, alpha: float, tried: Mapping[str, list[float]], texts: CalibrationTexts) -> NativeModel:
    """The form with a recipe that says how it was made."""
    counts = _counts(form)
    recipe = {
        "weights": "int8, symmetric, a scale for each column",
        "activations": "uint8, a scale and zero point for each row, found when it is computed",
        "compute": "int8 products with exact sums; attention, norms, activations and float32_products in float32",
        "smoothing_alpha": alpha,
        "alphas_tried": dict(tried),
        "weight_rounding": "nearest",
        "int8_products": counts["int8"],
        "float32_products": counts["float32"],
        "words": str(form.embeddings.words.dtype),
        "calibration_sha256": texts.sha256,
    }
    return replace(form, recipe=recipe)


def _counts(form: NativeModel) -> dict[str, int]:
    """How many products of the layers are of each kind; those of shared layers count once."""
    products = {id(product): product for layer in form.layers for product in _products(layer)}
    int8 = sum(product.integers is not None for product in products.values())
    return {"int8": int8, "float32": len(products) - int8}


def _keepings(model: NativeModel) -> list[tuple[Product, ...]]:
    """The products that stay in float32, each set larger than the one before; a last layer of one row is none of them."""
    layers = [layer for layer in model.layers if layer.one_row is None]
    if not layers:
        return [()]
    half = layers[len(layers) // 2 :]
    downs = tuple(layer.down for layer in layers)
    sets = [
        (),
        tuple(layer.down for layer in half),
        downs,
        (*downs, *(layer.up for layer in half)),
        (*downs, *(layer.up for layer in layers)),
        (*downs, *(layer.up for layer in layers), *(product for layer in half for product in _products(layer)[:2])),
        (*downs, *(product for layer in layers for product in _products(layer))),
    ]
    known: set[frozenset[int]] = set()
    kept = []
    for each in sets:
        key = frozenset(map(id, each))
        if key not in known:
            known.add(key)
            kept.append(each)
    return kept


def _products(layer: Layer) -> list[Product]:
    """Those over all rows of the layer."""
    own = [] if layer.query_key_value is None else [layer.query_key_value]
    return [*own, layer.attention_output, layer.up, layer.down]


def _others(texts: CalibrationTexts, step: int) -> Iterator[str]:
    """Texts that are no probes, evenly spread."""
    others = texts.count - len(range(0, texts.count, step))
    every = max(1, others // RANGE_TEXTS)
    rest = (text for place, text in enumerate(texts.open()) if place % step)
    return islice(rest, 0, every * RANGE_TEXTS, every)


def _some(rows: Float32) -> Float32:
    """At most so many rows, evenly spread."""
    return rows[:: max(1, len(rows) // _ROWS)]


def _used_up(figures: Sequence[ParityFigures]) -> float:
    """How much of the room that `MARGIN` leaves is used up, by the tightest bound of all outputs."""
    return max((1 - float(getattr(item, name))) / (1 - bound) for item in figures for name, bound in MARGIN.items())
