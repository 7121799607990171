"""Nearest neighbours in two sets of vectors of the same texts: what a search index would notice of an upgrade."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]

NEIGHBOURS = 10
# Cosines nearer than this are a tie, so texts that differ in capitals only do not count as changed neighbours.
TIE = 1e-6
BLOCK_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class NeighbourFigures:
    """How many of each text's `neighbours` nearest others stay the same, as shares of 1.

    Attributes:
        neighbours: how many were looked at; 10 unless there are fewer texts.
        mean: with both sides encoded by the second bundle.
        worst: the same for the text that loses most.
        mixed: with queries from the second bundle against an index of the first: what happens to those who upgrade one side only.
    """

    neighbours: int
    mean: float
    worst: float
    mixed: float


def compare_neighbours(first: Float32, second: Float32) -> NeighbourFigures | None:
    """Compares the neighbours by cosine in `first` [n, width] with those in `second` [n, width], of the same n texts.

    None with fewer than three different vectors: the neighbours of a pair say nothing. Texts with the same vector in `first` count once.
    """
    _, distinct = np.unique(first, axis=0, return_index=True)
    places = np.sort(distinct)
    if len(places) < 3 or not (np.isfinite(first).all() and np.isfinite(second).all()):
        return None
    old, new = _unit(first[places]), _unit(second[places])
    count = min(NEIGHBOURS, len(places) - 2)
    kept, mixed = [], []
    for start in range(0, len(places), BLOCK_ROWS):
        rows = np.arange(start, min(start + BLOCK_ROWS, len(places)))
        known = _similarities(old[rows], old, rows)
        kept.append(_overlap(known, _similarities(new[rows], new, rows), count))
        mixed.append(_overlap(known, _similarities(new[rows], old, rows), count))
    share = np.concatenate(kept)
    return NeighbourFigures(neighbours=count, mean=float(share.mean()), worst=float(share.min()), mixed=float(np.concatenate(mixed).mean()))


def _unit(vectors: Float32) -> Float32:
    norms = np.sqrt((vectors.astype(np.float64) ** 2).sum(1, keepdims=True))
    return np.asarray(vectors / np.where(norms == 0.0, 1.0, norms), dtype=np.float32)


def _similarities(queries: Float32, index: Float32, rows: NDArray[np.intp]) -> Float32:
    """Cosines [rows, n]; a text is not its own neighbour."""
    similarities = queries @ index.T
    similarities[np.arange(len(rows)), rows] = -np.inf
    return similarities


def _overlap(known: Float32, similarities: Float32, count: int) -> NDArray[np.float64]:
    """For each row the share of the `count` largest of `similarities` that are among the `count` largest of `known`, ties included."""
    bound = np.partition(known, -count, axis=1)[:, -count] - TIE
    nearest = np.argpartition(similarities, -count, axis=1)[:, -count:]
    return np.asarray((np.take_along_axis(known, nearest, axis=1) >= bound[:, None]).mean(1), dtype=np.float64)
