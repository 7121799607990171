"""What leaves `encode` and `predict`: arrays, tensors or lists of tensors, in the shapes and types of sentence-transformers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cls_runtime.encoding.quantizing import quantized
from cls_runtime.encoding.vector_options import WITH_RANGES, DType
from cls_runtime.errors import UsageError
from cls_runtime.integrations.sentence_transformers.tensors import torch_for

Float32 = NDArray[np.float32]
PRECISIONS: tuple[DType, ...] = ("float32", "int8", "uint8", "binary", "ubinary")
_LEAST_NORM = 1e-12  # what torch.nn.functional.normalize divides by at least


@dataclass(frozen=True, kw_only=True)
class Container:
    """What holds the rows of a call: one array, one tensor, or a list of tensors. `is_single` says that there is one input, not a list."""

    to_numpy: bool
    to_tensor: bool
    is_single: bool

    def check(self) -> None:
        """Finds out before anything is computed that tensors cannot be made.

        Raises:
            MissingExtraError: tensors are asked for, and torch is not installed.
        """
        if self.to_tensor or not self.to_numpy:
            torch_for(self._argument)

    def of_rows(self, rows: NDArray[Any]) -> Any:
        """`rows` [n, ...] in the container; of a single input, its row."""
        if self.to_tensor:
            torch = torch_for(self._argument)
            held: Any = torch.from_numpy(rows) if len(rows) else torch.tensor([])
        elif self.to_numpy:
            held = rows if len(rows) else np.array([])
        else:
            held = list(torch_for(self._argument).from_numpy(rows)) if len(rows) else []
        return held[0] if self.is_single else held

    def of_each(self, rows: Sequence[Any]) -> Any:
        """A list with an array or a tensor for each input, or a dict of them; of a single input, its own. Their shapes may differ."""
        held = [self._item(row) for row in rows]
        return held[0] if self.is_single else held

    def _item(self, row: Any) -> Any:
        if isinstance(row, dict):
            return {name: self._item(value) for name, value in row.items()}
        return torch_for(self._argument).from_numpy(row) if self.to_tensor or not self.to_numpy else row

    @property
    def _argument(self) -> str:
        return "convert_to_tensor=True" if self.to_tensor else "convert_to_numpy=False"


def checked_precision(precision: str | None) -> DType:
    """The precision of a call; None is float32.

    Raises:
        UsageError: there is no such precision.
    """
    if precision is None:
        return "float32"
    for known in PRECISIONS:
        if precision == known:
            return known
    raise UsageError(f"precision is {precision!r}, expected one of {', '.join(PRECISIONS)}")


def of_unit_length(vectors: Float32) -> Float32:
    """Each of the vectors [n, width] divided by its L2 norm."""
    norms = np.sqrt(np.einsum("nw,nw->n", vectors, vectors, dtype=np.float64))
    result: Float32 = vectors / np.maximum(norms, _LEAST_NORM)[:, None].astype(np.float32)
    return result


def in_precision(vectors: Float32, precision: DType) -> NDArray[Any]:
    """Vectors [n, width] in a precision; int8 and uint8 divide the range that these very vectors have, as sentence-transformers does.

    Raises:
        UsageError: int8 or uint8 of a single vector, which has no range.
    """
    return quantized(vectors, precision, ranges=_ranges(vectors, precision))


def each_in_precision(rows: Sequence[Float32], precision: DType) -> list[NDArray[Any]]:
    """The same for the token rows [tokens, width] of several texts, which have one range together."""
    ranges = _ranges(np.concatenate(rows), precision) if rows else None
    return [quantized(of_text, precision, ranges=ranges) for of_text in rows]


def _ranges(vectors: Float32, precision: DType) -> Float32 | None:
    if precision not in WITH_RANGES:
        return None
    if len(vectors) == 1:
        raise UsageError(
            f"precision is {precision!r} for one text, expected at least two, whose vectors give the ranges; encode more texts, or use "
            f"cls_runtime.Encoder.encode(dtype={precision!r}), which has the bundle's ranges"
        )
    return np.stack([vectors.min(axis=0), vectors.max(axis=0)])
