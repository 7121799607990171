"""Which exponent balances a model's channels, and which products become int8: what held-out calibration texts say.

Of a model whose outputs are of one row, the last layer stays in float32: it costs little there, and its errors would reach the vector
unaveraged. Where every row counts all products begin as int8, and as many go back as the texts ask for: those first that cost most.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch

from cls_exporter.checkpoint import Checkpoint
from cls_exporter.checkpoint.trial import outputs_of
from cls_exporter.native.int8_model import Int8Products
from cls_exporter.native.moments import input_moments
from cls_exporter.native.ranges import Ranges, input_ranges, merged
from cls_exporter.native.reasons import NotNativeError
from cls_exporter.native.simulation import Simulation
from cls_exporter.variants.calibration import random_words, token_batches
from cls_exporter.variants.calibration_texts import CalibrationTexts
from cls_runtime.bundle.parity import parity_figures, shortfalls, thresholds_for
from cls_runtime.bundle.variant import ParityFigures
from cls_runtime.engines.base import Float32
from cls_runtime.engines.native.weights import Layer, NativeModel, Product
from cls_runtime.engines.padding import PaddedBatch
from cls_runtime.engines.preference import NATIVE

ALPHAS = (0.4, 0.5, 0.6, 0.7)
FIRST_ALPHA = 0.6
PROBE_TEXTS = 96
RANGE_TEXTS = 96
# What the probes must reach, with margin to the gate's bounds: other texts need more.
MARGIN = {"mean_cosine": 0.9997, "p1_cosine": 0.9993, "min_cosine": 0.999}
_ROWS = 4096  # of every token's, that are compared
_FEW = 8  # of so many probes, one is a few words long, too: about as many as there are among the texts that an export is held to
_MOST_WORDS = 3

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
        if missed := shortfalls(figures, thresholds_for("fp32", held, engine=NATIVE)):
            raise NotNativeError(f"{checkpoint.architecture.model_type} with these settings: {held} would have {missed[0]}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Probes:
    """Held-out texts, and the float32 model's vectors of them."""

    batches: Sequence[PaddedBatch]
    vectors: Vectors

    def figures(self, model: NativeModel) -> list[ParityFigures]:
        """Of every output that cosines say something of."""
        vectors = Simulation(model).outputs(self.batches)
        return [parity_figures(_some(rows), _some(vectors[name])) for name, rows in self.vectors.items() if name != "logits"]

    def loss(self, model: NativeModel) -> float:
        """What is missing to a cosine of 1 on average, of the output that loses most."""
        return max(1 - float(figures.mean_cosine) for figures in self.figures(model))


def int8_forms(model: NativeModel, checkpoint: Checkpoint, texts: CalibrationTexts) -> Iterator[NativeModel]:
    """Forms with int8 products, each with more of them in float32 than the one before: from the first that the probes are content with."""
    every_row = model.layers[-1].one_row is None
    probed, rest = _split(texts)
    batches = list(token_batches(checkpoint, iter(_with_some_beginnings(probed, _FEW if every_row else 0))))
    probes = Probes(batches=batches, vectors=Simulation(model).outputs(batches))
    measured = list(token_batches(checkpoint, iter(_with_some_beginnings(rest, 1 if every_row else 0))))
    ranges = input_ranges(model, measured)
    tried = _search(model, ranges, probes)
    alpha = min(tried, key=lambda item: _used_up(tried[item]))
    nearest = Int8Products(model, merged(ranges, input_ranges(model, batches)), alpha=alpha)
    descent = nearest.with_moments(input_moments(model, nearest.factors, measured, random_words(checkpoint, iter(measured))))
    ways = {"nearest": nearest, "descent": descent}
    figures = {way: probes.figures(made.model()) for way, made in ways.items()}
    way = min(figures, key=lambda item: _used_up(figures[item]))
    recipe = {
        "smoothing_alpha": alpha,
        "alphas_tried": _in_short(tried),
        "weight_rounding": way,
        "roundings_tried": _in_short(figures),
        "calibration_sha256": texts.sha256,
    }
    for kept in _keepings(model, ways[way], probes, figures[way]):
        yield _told(ways[way].model(kept=kept), recipe)


def _search(model: NativeModel, ranges: Ranges, probes: Probes) -> dict[float, list[ParityFigures]]:
    """The figures of exponents on either side of the first, as far as they get better."""

    def figures(alpha: float) -> list[ParityFigures]:
        return probes.figures(Int8Products(model, ranges, alpha=alpha).model())

    tried = {FIRST_ALPHA: figures(FIRST_ALPHA)}
    first = ALPHAS.index(FIRST_ALPHA)
    for side in (ALPHAS[first + 1 :], ALPHAS[:first][::-1]):
        for alpha in side:
            tried[alpha] = figures(alpha)
            if _used_up(tried[alpha]) > min(map(_used_up, tried.values())):
                break
    return tried


def _keepings(model: NativeModel, made: Int8Products, probes: Probes, figures: Sequence[ParityFigures]) -> Iterator[frozenset[int]]:
    """Which products stay in float32, more each time: from the fewest that the probes are content with to all of them.

    Those go back first whose int8 form costs the probes most for each of its multiply-adds. `figures` are of the form that keeps none.
    """
    times = Counter(id(product) for layer in model.layers if layer.one_row is None for product in _products(layer))
    sizes = {id(product): product.depth * product.width for layer in model.layers for product in _products(layer)}
    if not times:
        yield frozenset()
        return
    content, order = _used_up(figures) <= 1, list(times)
    if content:
        yield frozenset()
    costs = {key: probes.loss(made.model(kept=set(times) - {key})) for key in times}
    order.sort(key=lambda key: -costs[key] / (sizes[key] * times[key]))
    fewest = 0 if content else _fewest(order, made, probes)
    yield from (frozenset(order[:count]) for count in _more_and_more(max(fewest, 1), len(order)))


def _more_and_more(first: int, last: int) -> Iterator[int]:
    """From first to last: the next one, two further, four further, and so on.

    >>> list(_more_and_more(9, 24))
    [9, 10, 12, 16, 24]
    """
    count, step = first, 1
    while count < last:
        yield count
        count, step = count + step, 2 * step
    yield last


def _fewest(order: Sequence[int], made: Int8Products, probes: Probes) -> int:
    """How many of the first products must stay in float32, by halving what is left to try."""
    low, high = 1, len(order)
    while low < high:
        middle = (low + high) // 2
        if _used_up(probes.figures(made.model(kept=order[:middle]))) <= 1:
            high = middle
        else:
            low = middle + 1
    return low


def _in_short(tried: Mapping[Any, Sequence[ParityFigures]]) -> dict[str, list[float]]:
    """Mean and 1st percentile cosine of the first output of each thing tried."""
    return {str(name): [round(figures[0].mean_cosine, 6), round(figures[0].p1_cosine, 6)] for name, figures in tried.items()}


def _told(form: NativeModel, recipe: Mapping[str, Any]) -> NativeModel:
    """The form with a recipe that says how it was made."""
    counts = _counts(form)
    whole = {
        "weights": "int8, symmetric, a scale for each column",
        "activations": "uint8, a scale and zero point for each row, found when it is computed",
        "compute": "int8 products with exact sums; attention, norms, activations and float32_products in float32",
        **recipe,
        "int8_products": counts["int8"],
        "float32_products": counts["float32"],
        "words": str(form.embeddings.words.dtype),
    }
    return replace(form, recipe=whole)


def _counts(form: NativeModel) -> dict[str, int]:
    """How many products of the layers are of each kind; those of shared layers count once."""
    products = {id(product): product for layer in form.layers for product in _products(layer)}
    int8 = sum(product.integers is not None for product in products.values())
    return {"int8": int8, "float32": len(products) - int8}


def _products(layer: Layer) -> list[Product]:
    """Those over all rows of the layer."""
    own = [] if layer.query_key_value is None else [layer.query_key_value]
    return [*own, layer.attention_output, layer.up, layer.down]


def _split(texts: CalibrationTexts) -> tuple[list[str], list[str]]:
    """Texts that forms are tried on, and as many others that ranges and moments come from; evenly spread."""
    step = max(2, texts.count // PROBE_TEXTS)
    probed = list(islice(texts.open(), 0, step * PROBE_TEXTS, step))
    others = texts.count - len(range(0, texts.count, step))
    every = max(1, others // RANGE_TEXTS)
    rest = (text for place, text in enumerate(texts.open()) if place % step)
    return probed, list(islice(rest, 0, every * RANGE_TEXTS, every))


def _with_some_beginnings(texts: Sequence[str], every: int) -> list[str]:
    """The texts, and the first one, two or three words of each of `every` so many; 0 for none.

    A few tokens have the special ones beside them, whose rows make up most of a short text's mean and few of a long one's.
    """
    chosen = texts[::every] if every else ()
    return [*texts, *(" ".join(text.split()[: 1 + place % _MOST_WORDS]) for place, text in enumerate(chosen))]


def _some(rows: Float32) -> Float32:
    """At most so many rows, evenly spread."""
    return rows[:: max(1, len(rows) // _ROWS)]


def _used_up(figures: Sequence[ParityFigures]) -> float:
    """How much of the room that `MARGIN` leaves is used up, by the tightest bound of all outputs."""
    return max((1 - float(getattr(item, name))) / (1 - bound) for item in figures for name, bound in MARGIN.items())
