"""A graph on one NVIDIA GPU. Only the rows come back to the host: inputs and outputs are bound, nothing else is copied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from cls_runtime.engines.base import Float32
from cls_runtime.engines.onnxruntime import first_line
from cls_runtime.engines.padding import PaddedBatch
from cls_runtime.errors import ClosedError, EngineError

if TYPE_CHECKING:
    import onnxruntime

# Two batches under way: one is padded and copied in while the other is computed.
WORKERS = 2


class GpuEngine:
    """A graph on a GPU. Made by `load_on`."""

    workers = WORKERS

    def __init__(self, session: onnxruntime.InferenceSession, *, name: str) -> None:
        self.name = name
        self.providers = tuple(session.get_providers())
        self._session: onnxruntime.InferenceSession | None = session
        self._inputs = tuple(item.name for item in session.get_inputs())

    def run(self, batch: PaddedBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [B, S, width].

        Raises:
            EngineError: ONNX Runtime or the GPU failed.
            ClosedError: `close` was called.
        """
        session = self._session
        if session is None:
            raise ClosedError("the engine is closed; load the bundle again")
        try:
            binding = session.io_binding()
            for name in self._inputs:
                binding.bind_cpu_input(name, getattr(batch, name))
            for name in outputs:
                binding.bind_output(name, "cpu")
            session.run_with_iobinding(binding)
            return cast("list[Float32]", binding.copy_outputs_to_cpu())
        except Exception as error:  # its exceptions have no common base class
            raise EngineError(f"{self.name} failed on a batch of shape {batch.input_ids.shape}: {first_line(error)}") from error

    def close(self) -> None:
        """Frees the session and its memory on the GPU."""
        self._session = None
