"""A graph on one NVIDIA GPU. Only the rows come back to the host: inputs and outputs are bound, nothing else is copied."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from cls_runtime.engines.base import Float32, TokenBatch
from cls_runtime.engines.cuda.capture_lock import PROCESS
from cls_runtime.engines.cuda.graphs import CudaGraphs
from cls_runtime.engines.cuda.layouts import LaidOut, Layout
from cls_runtime.engines.cuda.memory import CudaRuntime, Device, InputBuffer, InputBuffers, is_out_of_memory
from cls_runtime.engines.onnxruntime import first_line
from cls_runtime.errors import ClosedError, EngineError, EngineWarning

if TYPE_CHECKING:
    import onnxruntime

# Some batches are laid out and copied while others are computed: a prototype on an H100 was fastest with 2 to 4. Each takes memory on the
# GPU for a whole run.
WORKERS = 4


class GpuEngine:
    """A graph on one GPU. Made by `load`."""

    name = "cuda"

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        layout: Layout,
        *,
        device: Device,
        graphs: CudaGraphs | None = None,
        runtime: CudaRuntime | None = None,
        workers: int = WORKERS,
    ) -> None:
        self.workers = workers
        self.providers = tuple(session.get_providers())
        self.batching = layout.batching
        self._session: onnxruntime.InferenceSession | None = session
        self._layout = layout
        self._label = device_name(device)
        self._graphs = graphs
        self._buffers = InputBuffers(workers, lambda: InputBuffer(device, runtime=runtime))

    def padding_tokens(self, batch: TokenBatch) -> int:
        """How many tokens a run of this batch computes beside its own."""
        return self._layout.padding_tokens(batch)

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        A batch for which the GPU has no memory is run as two, with a warning.

        Raises:
            EngineError: ONNX Runtime or the GPU failed, or there is no memory for half of the batch either.
            ClosedError: `close` was called.
        """
        try:
            return self._run(batch, outputs)
        except (ClosedError, EngineWarning):  # a warning that its receiver has made an error
            raise
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            if not is_out_of_memory(error):
                raise EngineError(f"{self._label} failed on a batch of {_size(batch)}: {first_line(error)}") from error
            if batch.texts == 1:
                raise EngineError(
                    f"{self._label} has no memory for one text of {batch.tokens} tokens; see nvidia-smi for who uses it, or take another"
                ) from error
        # Not in the handler, which holds on to what the failed run has.
        return self._run_as_two(batch, outputs)

    def close(self) -> None:
        """Frees the sessions and their memory on the GPU, after the runs that are under way."""
        with PROCESS.run():
            self._session = None
        if self._graphs is not None:
            self._graphs.close()

    def _run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        session = self._session
        if session is None:
            raise ClosedError("the engine is closed; load the bundle again")
        laid_out = self._layout.lay_out(batch)
        graphs = None if laid_out.bucket is None else self._graphs
        rows = None
        with PROCESS.run():
            if graphs is not None and laid_out.bucket is not None:
                rows = graphs.run(laid_out.bucket, laid_out.feeds, outputs)
            plain = rows is None
            if rows is None:
                rows = self._plain_run(session, laid_out, outputs)
        if plain and graphs is not None and laid_out.bucket is not None and laid_out.sizes is not None:
            graphs.offer(laid_out.bucket, laid_out.feeds, outputs, laid_out.sizes, rows)
        return self._layout.rows_of(batch, laid_out, outputs, rows)

    def _plain_run(self, session: onnxruntime.InferenceSession, laid_out: LaidOut, outputs: Sequence[str]) -> list[Float32]:
        with self._buffers.taken() as buffer:
            binding = session.io_binding()
            buffer.bind(binding, laid_out.feeds)
            if laid_out.sizes is None:
                for name in outputs:
                    binding.bind_output(name, "cpu")
                session.run_with_iobinding(binding)
                return cast("list[Float32]", binding.copy_outputs_to_cpu())
            values = [np.empty(laid_out.sizes[name], dtype=np.float32) for name in outputs]
            for name, rows in zip(outputs, values, strict=True):
                binding.bind_output(name, "cpu", 0, np.float32, rows.shape, rows.ctypes.data)
            session.run_with_iobinding(binding)
            return values

    def _run_as_two(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        first, second = halves(batch)
        warnings.warn(
            f"{self._label} has no memory for a batch of {_size(batch)}, it is run as two, of {_size(first)} and {_size(second)}; "
            f"lower token_budget below {batch.tokens}",
            EngineWarning,
            stacklevel=3,
        )
        values = []
        for half in (first, second):
            try:
                values.append(self._run(half, outputs))
            except (ClosedError, EngineWarning):
                raise
            except Exception as error:  # as above
                raise EngineError(
                    f"{self._label} failed on {_size(half)}, half of a batch for which it had no memory: {first_line(error)}; "
                    f"lower token_budget, to {max(1, half.tokens // 2)} or less"
                ) from error
        return [np.concatenate(rows) for rows in zip(*values, strict=True)]


def device_name(device: Device) -> str:
    """`cuda:0` for the first GPU."""
    return f"{device.kind}:{device.number}"


def halves(batch: TokenBatch) -> tuple[TokenBatch, TokenBatch]:
    """A batch of two texts or more as two, of about as many tokens each."""
    offsets = batch.offsets
    texts = min(max(int(np.searchsorted(offsets, batch.tokens // 2)), 1), batch.texts - 1)
    return _part(batch, slice(0, texts), slice(0, int(offsets[texts]))), _part(batch, slice(texts, None), slice(int(offsets[texts]), None))


def _part(batch: TokenBatch, texts: slice, tokens: slice) -> TokenBatch:
    return dataclasses.replace(
        batch,
        input_ids=batch.input_ids[tokens],
        lengths=batch.lengths[texts],
        token_type_ids=None if batch.token_type_ids is None else batch.token_type_ids[tokens],
        unpooled=None if batch.unpooled is None else batch.unpooled[texts],
    )


def _size(batch: TokenBatch) -> str:
    return f"{batch.texts} texts and {batch.tokens} tokens"
