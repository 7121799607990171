"""How far the inputs of a model's products go over the calibration texts, channel by channel.

Measured in float64, and used in steps of an eighth of a doubling: the same checkpoint and texts give the same file on every CPU.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cls_exporter.native.simulation import Simulation
from cls_runtime.engines.native.weights import NativeModel, Product
from cls_runtime.engines.padding import PaddedBatch

Float64 = NDArray[np.float64]

Ranges = Mapping[int, Float64]  # by the product's identity, the largest magnitude of each input, [K]


def input_ranges(model: NativeModel, batches: Iterable[PaddedBatch]) -> Ranges:
    """The range of every product's inputs; of a product that several layers share, over all of them."""
    largest: dict[int, Tensor] = {}

    def observe(product: Product, rows: Tensor) -> None:
        own = rows.abs().amax(0)
        known = largest.get(id(product))
        largest[id(product)] = own if known is None else torch.maximum(known, own)

    Simulation(model, dtype=torch.float64, observe=observe).outputs(batches)
    return {key: value.numpy() for key, value in largest.items()}


def merged(first: Ranges, second: Ranges) -> Ranges:
    """The ranges over the texts of both; of the same model."""
    return {key: np.maximum(largest, second[key]) for key, largest in first.items()}
