"""What an inference engine is to the rest of the runtime: token ids in, one row per text and output out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]


@dataclass(frozen=True)
class TokenBatch:
    """The tokens of B texts that run together, one text after another, T tokens in all: no padding.

    How they are laid out for a graph is the engine's affair: padded to [B, S] (`engines/padding.py`) or as they are (`engines/packing.py`).

    Attributes:
        input_ids: int32 [T].
        lengths: the tokens of each text, int32 [B], at least one each.
        token_type_ids: int32 [T]; None where the model takes none.
        unpooled: how many of each text's first tokens are read and not pooled, int32 [B]; None where that is none of any.
        pad_id: the token that fills up where an engine pads.
        token_budget: the tokens that the run may have, padding included, unless one text has more; None for the engine's own.
    """

    input_ids: Int32
    lengths: Int32
    token_type_ids: Int32 | None = None
    unpooled: Int32 | None = None
    pad_id: int = 0
    token_budget: int | None = None

    @property
    def texts(self) -> int:
        """B."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """T."""
        return len(self.input_ids)

    @property
    def longest(self) -> int:
        """The tokens of the longest text."""
        return int(self.lengths.max())

    @property
    def offsets(self) -> Int32:
        """Where each text begins, and behind them where the last one ends; int32 [B + 1]."""
        offsets = np.zeros(len(self.lengths) + 1, dtype=np.int32)
        np.cumsum(self.lengths, dtype=np.int32, out=offsets[1:])
        return offsets


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How texts are put together for an engine; each engine's numbers are measured.

    Attributes:
        token_budget: the tokens of a run at most, padding included, unless one text has more.
        full_tokens: a run of so many tokens is large enough to be fast, and takes no more texts than those of its own length.
        pads: whether texts are padded to the longest of their run.
        window_texts: so many texts are tokenized and sorted by length together.
        keeps_shapes: whether the engine prepares kernels for each shape that it meets, so that runs are filled to the budget, full or not:
            texts of one length then always come in the same number.
    """

    token_budget: int
    full_tokens: int
    pads: bool = True
    window_texts: int = 4096
    keeps_shapes: bool = False


class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """`onnxruntime`, `openvino`, `native` or `cuda`."""

    @property
    def workers(self) -> int:
        """How many `run` calls at once use the engine's threads best."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What computes, in the engine's own words: `CPUExecutionProvider`, ..."""

    @property
    def batching(self) -> Batching:
        """How texts are best put together for it."""

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens of padding a run of this batch computes beside its own."""

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: the engine failed.
        """

    def close(self) -> None:
        """Frees the graph's memory and threads. May be called more than once."""


class EngineModule(Protocol):
    """What a module in `cls_runtime/engines/` offers; it is imported only when its engine is used."""

    def load(self, bundle: Bundle, *, variant: str, threads: int, devices: Sequence[int] = ()) -> Engine:
        """Loads a variant's graph onto at most `threads` CPU threads and, of an engine on GPUs, those of these numbers.

        No numbers are the engine's own choice, the first GPU; an engine on the CPU takes none.

        Raises:
            MissingExtraError: the engine's package is not installed.
            BundleError: the file is not a graph, or its inputs and outputs are not those of the manifest.
            EngineError: the engine cannot run it here.
        """
