"""How a batch becomes the inputs of a graph on a GPU: packed, or padded where the graph has axes [B, S]. And the outputs its rows again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.base import Batching, Float32, TokenBatch
from cls_runtime.engines.cuda.memory import Feeds
from cls_runtime.engines.cuda.shapes import Shape, filled, shape_for
from cls_runtime.engines.padding import of_texts, padded, padding_tokens

_TOKENS = GRAPH_OUTPUTS["tokens"]


@dataclass(frozen=True)
class LaidOut:
    """A batch as inputs of a graph.

    Attributes:
        feeds: the inputs.
        shape: B and T, fillers included, of a packed batch; B and S of a padded one.
        bucket: the shape where it is one of the few of small packed batches, else None.
        sizes: the shapes of all outputs where they are known beforehand.
    """

    feeds: Feeds
    shape: tuple[int, int]
    bucket: Shape | None = None
    sizes: Mapping[str, tuple[int, int]] | None = None


class Layout(Protocol):
    """What `GpuEngine` asks of a layout."""

    @property
    def batching(self) -> Batching:
        """How texts are best put together for it."""

    def lay_out(self, batch: TokenBatch) -> LaidOut:
        """The batch as inputs."""

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens are computed beside the batch's own."""

    def rows_of(self, batch: TokenBatch, laid_out: LaidOut, outputs: Sequence[str], values: Sequence[Float32]) -> list[Float32]:
        """What a graph gave for `outputs`, without what is no text's and no token's of the batch."""


class PackedLayout:
    """For graphs whose inputs are those of `engines/packing.py`."""

    # The budget with which a prototype on an H100 was fastest, so that a run has 2,600 sentences of 25 tokens; six such runs are sorted
    # by length together.
    batching = Batching(token_budget=65_536, full_tokens=65_536, pads=False, window_texts=16_384)

    def __init__(self, inputs: Sequence[str], widths: Mapping[str, int]) -> None:
        self._inputs = tuple(inputs)
        self._widths = widths

    def lay_out(self, batch: TokenBatch) -> LaidOut:
        """The batch as inputs."""
        shape = shape_for(batch)
        sizes = {name: (shape.tokens if name == _TOKENS else shape.texts, width) for name, width in self._widths.items()}
        feeds = filled(batch, shape, self._inputs)
        return LaidOut(feeds, (shape.texts, shape.tokens), shape if shape.is_bucket else None, sizes)

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens of fillers are computed beside the batch's own."""
        return shape_for(batch).tokens - batch.tokens

    def rows_of(self, batch: TokenBatch, laid_out: LaidOut, outputs: Sequence[str], values: Sequence[Float32]) -> list[Float32]:  # noqa: ARG002
        """What a graph gave for `outputs`, without the fillers' rows."""
        return [rows[: batch.tokens if name == _TOKENS else batch.texts] for name, rows in zip(outputs, values, strict=True)]


class PaddedLayout:
    """For graphs whose inputs are those of `engines/padding.py`."""

    # Attention without a fast kernel keeps scores [B, A, S, S]: of 32 texts of 512 tokens, 12 heads and fp16 that is 0.2 GB a run. Texts of
    # like length are together, and a GPU needs its runs filled. Not measured: the best budget of the padded graph on an H100 was above
    # 1,024, and is not on record.
    batching = Batching(token_budget=16_384, full_tokens=16_384, window_texts=16_384)

    def __init__(self, inputs: Sequence[str]) -> None:
        self._inputs = tuple(inputs)

    def lay_out(self, batch: TokenBatch) -> LaidOut:
        """The batch as inputs."""
        laid_out = padded(batch)
        feeds: dict[str, NDArray[np.int64]] = {name: getattr(laid_out, name) for name in self._inputs}
        return LaidOut(feeds, laid_out.shape)

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens of padding are computed beside the batch's own."""
        return padding_tokens(batch)

    def rows_of(self, batch: TokenBatch, laid_out: LaidOut, outputs: Sequence[str], values: Sequence[Float32]) -> list[Float32]:
        """What a graph gave for `outputs`, without padding."""
        return of_texts(values, outputs, batch, laid_out.shape)
