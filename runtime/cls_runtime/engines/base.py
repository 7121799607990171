"""What an inference engine is to the rest of the runtime: token ids in, one row per text and output out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class TokenBatch:
    """A padded batch. Each array is int64 [B, S]; `token_type_ids` is None where the graph does not take it."""

    input_ids: Int64
    attention_mask: Int64
    token_type_ids: Int64 | None


class Engine(Protocol):
    """A loaded graph. `run` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """`onnxruntime`, `openvino`, `cuda` or `tensorrt`."""

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`.

        Raises:
            EngineError: the engine failed.
        """

    def close(self) -> None:
        """Frees the graph's memory and threads. May be called more than once."""
