"""What an inference engine is to the rest of the runtime: token ids in, one row per text and output out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from cls_runtime.bundle.folder import Bundle

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class TokenBatch:
    """A padded batch. Each array is int64 [B, S]; `token_type_ids` is None where the graph does not take it.

    `attention_mask` is 1 for a token and 0 for padding; 2, for graphs that know it, for a token that is read and not pooled.
    """

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64 | None


class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """`onnxruntime`, `openvino`, `cuda` or `tensorrt`."""

    @property
    def workers(self) -> int:
        """How many `run` calls at once use the engine's threads best."""

    @property
    def providers(self) -> tuple[str, ...]:
        """What computes, in the engine's own words: `CPUExecutionProvider`, ..."""

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [B, S, width].

        Raises:
            EngineError: the engine failed.
        """

    def close(self) -> None:
        """Frees the graph's memory and threads. May be called more than once."""


class EngineModule(Protocol):
    """What a module in `cls_runtime/engines/` offers; it is imported only when its engine is used."""

    def load(self, bundle: Bundle, *, variant: str, threads: int) -> Engine:
        """Loads a variant's graph onto at most `threads` CPU threads.

        Raises:
            MissingExtraError: the engine's package is not installed.
            BundleError: the file is not a graph, or its inputs and outputs are not those of the manifest.
            EngineError: the engine cannot run it here.
        """
