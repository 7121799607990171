"""Weights as int8: a scale for each column, no sum of products that a 16-bit kernel could not hold, and the rounding that costs least.

Everything here gives the same integers on every CPU: what is added up are integers, or multiples of a power of two, small enough that
float64 holds every partial sum exactly, in whatever order a matrix product adds it up.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cls_exporter.graph.passes.static_quantization import QuantizedWeight

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

LARGEST = 127
# A CPU without VNNI multiplies uint8 by int8 and adds the products of two neighbouring rows of a weight in 16 bits, which saturate above
# 32767. 255 * 128 fits: where the sizes of two neighbours add up to 128 at most, every kernel computes the same integers. Weights of 7 bits
# would do, too, at twice the error.
LARGEST_PAIR = 128
ANY_PAIR = 2 * LARGEST
SWEEPS = 2  # the second gains 0.2%, a fourth 0.1% more
_BLOCK = 64
_MOMENT_BITS = 24
_FRACTION = 2.0**-14


def round_to_nearest(weight: Float32, *, least_scales: Float64 | None = None, largest_pair: int = LARGEST_PAIR) -> QuantizedWeight:
    """Rounds each number to the nearest step that its neighbour leaves room for.

    Args:
        weight: [K, N].
        least_scales: [N], a lower bound of each column's scale; None for none.
        largest_pair: what the sizes of two neighbours of a column may add up to; `ANY_PAIR` for kernels that add up in 32 bits.
    """
    scales = _scales(weight, least_scales, largest_pair)
    return QuantizedWeight(_nearest(weight / scales.astype(np.float64), largest_pair).astype(np.int8), scales)


def round_by_descent(
    weight: Float32, moments: Float64, *, least_scales: Float64 | None = None, largest_pair: int = LARGEST_PAIR
) -> QuantizedWeight:
    """Rounds so that the product's error over the calibration texts becomes small: an error of one row may take back another's.

    With inputs x [K] and the error e = weight - integers * scales of a column, the mean of (x e)^2 is e^T M e for M = mean(x x^T). It is
    lowered row by row: each number goes to the better of its two neighbouring steps, the others held. No number moves further than one
    step, so an input that the calibration texts hardly have costs little more than with the nearest one.
    Source: Behdin et al. 2023, QuantEase, arXiv:2309.01885.

    Args:
        weight: [K, N].
        moments: M times any positive number, [K, K], of integers.
        least_scales, largest_pair: as `round_to_nearest` takes them.
    """
    scales = _scales(weight, least_scales, largest_pair)
    target = weight / scales.astype(np.float64)
    steps = _nearest(target, largest_pair)
    lowest, highest = np.minimum(np.floor(target), steps), np.maximum(np.ceil(target), steps)
    moments = _in_few_bits(moments)
    sizes = np.maximum(np.diagonal(moments), 1.0)
    error = np.rint((target - steps) / _FRACTION) * _FRACTION
    slopes = moments @ error  # [K, N]: how much each number would gain by a larger step
    for _ in range(SWEEPS):
        for start in range(0, len(weight), _BLOCK):
            rows = slice(start, min(start + _BLOCK, len(weight)))
            moved = _descend(steps, slopes[rows].copy(), moments[rows, rows], sizes, lowest, highest, start, largest_pair)
            if moved.any():
                slopes -= moments[:, rows] @ moved
    return QuantizedWeight(steps.astype(np.int8), scales)


def _descend(
    steps: Float64, slopes: Float64, moments: Float64, sizes: Float64, lowest: Float64, highest: Float64, start: int, largest_pair: int
) -> Float64:
    """Moves the rows from `start` on, one after the other; by how much, [rows, N]. `slopes` and `moments` are those of the rows."""
    moved = np.zeros_like(slopes)
    for place in range(len(slopes)):
        row = start + place
        room = _room(steps, row, largest_pair)
        wanted = np.rint(steps[row] + slopes[place] / sizes[row])
        wanted = np.clip(np.clip(wanted, lowest[row], highest[row]), -room, room)
        change = wanted - steps[row]
        if change.any():
            steps[row] = wanted
            moved[place] = change
            slopes[place + 1 :] -= np.outer(moments[place + 1 :, place], change)
    return moved


def _scales(weight: Float32, least: Float64 | None, largest_pair: int) -> Float32:
    """The smallest scales with which every number and every pair is within its bound, float32 [N]."""
    size = np.abs(weight.astype(np.float64))
    scales = size.max(0) / LARGEST
    if len(size) > 1:
        scales = np.maximum(scales, (size[0 : len(size) // 2 * 2 : 2] + size[1::2]).max(0) / largest_pair)
    if least is not None:
        scales = np.maximum(scales, least)
    rounded: Float32 = np.maximum(scales, np.finfo(np.float32).tiny).astype(np.float32)
    return rounded


def _nearest(target: Float64, largest_pair: int) -> Float64:
    """The nearest steps; where two neighbours came out one too large together, the one that was raised more goes back."""
    steps: Float64 = np.clip(np.rint(target), -LARGEST, LARGEST)
    even = len(steps) // 2 * 2
    first, second = steps[0:even:2], steps[1::2]
    raised_first = np.abs(first) - np.abs(target[0:even:2])
    raised_second = np.abs(second) - np.abs(target[1::2])
    over = np.maximum(np.abs(first) + np.abs(second) - largest_pair, 0)
    from_first = raised_first >= raised_second
    first -= np.where(from_first, over * np.sign(first), 0)
    second -= np.where(from_first, 0, over * np.sign(second))
    return steps


def _room(steps: Float64, row: int, largest_pair: int) -> Float64:
    """How large a row's steps may be beside its neighbour's, [N]."""
    neighbour = row ^ 1
    if neighbour >= len(steps):
        return np.full(steps.shape[1], float(LARGEST))
    room: Float64 = np.minimum(largest_pair - np.abs(steps[neighbour]), LARGEST)
    return room


def _in_few_bits(moments: Float64) -> Float64:
    """Moments divided by a power of two and rounded, so that their products with steps and fractions of them add up exactly."""
    largest = float(np.diagonal(moments).max())
    exponent = max(0, int(np.ceil(np.log2(max(largest, 1.0)))) - _MOMENT_BITS)
    return np.rint(np.ldexp(moments, -exponent))
