"""What the inputs of a model's products are as integers over the calibration texts: second moments, for rounding weights.

A row's integers are what the kernels make of it, whatever its scale is: each row weighs by how many steps its numbers have. Integers add
up exactly, so the same checkpoint and texts give the same moments on every CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cls_exporter.native.simulation import Simulation, integers_of
from cls_exporter.variants.calibration import TEXT_WEIGHT, WORD_WEIGHT
from cls_runtime.engines.native.weights import NativeModel, Product
from cls_runtime.engines.padding import PaddedBatch

Float64 = NDArray[np.float64]

Moments = Mapping[int, Float64]  # by the product's identity, integers [K, K]

# How much of the mean square is added to each channel's own: other texts will use channels that those of the calibration hardly did.
UNSEEN = 0.01
_EXACT_ROWS = 256  # sizes of 255 at most: so many squares are below 2^24, which float32 adds up exactly


def input_moments(
    model: NativeModel, factors: Mapping[int, Float64], texts: Iterable[PaddedBatch], words: Iterable[PaddedBatch]
) -> Moments:
    """The moments of every product that has `factors`, its inputs divided by them; a product that layers share has those of all.

    Args:
        model: in float32.
        factors: of each product's inputs, [K], by its identity.
        texts: weigh as `TEXT_WEIGHT` says.
        words: random ones, of `WORD_WEIGHT`.
    """
    sums: dict[int, Tensor] = {}
    divisors = {key: torch.from_numpy(value) for key, value in factors.items()}
    for batches, weight in ((texts, TEXT_WEIGHT), (words, WORD_WEIGHT)):

        def observe(product: Product, rows: Tensor, weight: int = weight) -> None:
            divisor = divisors.get(id(product))
            if divisor is None:
                return
            own = sums.setdefault(id(product), torch.zeros((len(divisor), len(divisor)), dtype=torch.float64))
            for part in torch.split(integers_of(rows / divisor)[0].float(), _EXACT_ROWS):
                own.add_(part.T @ part, alpha=weight)

        Simulation(model, dtype=torch.float64, observe=observe).outputs(batches)
    return {key: _with_unseen(value.numpy()) for key, value in sums.items()}


def _with_unseen(moments: Float64) -> Float64:
    """The padding, which nothing uses, stays as it is."""
    own = np.diagonal(moments)
    used = own > 0
    whole: Float64 = moments + np.diag(np.where(used, np.rint(UNSEEN * own.sum() / max(1, used.sum())), 0.0))
    return whole
