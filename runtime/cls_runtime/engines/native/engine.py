"""A model on our own kernels: tokens of all texts one after another, no padding, the same bits however texts are put together."""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence

import numpy as np

from cls_runtime.engines.base import Batching, Float32, Int32, TokenBatch
from cls_runtime.engines.native.library import BAD_INPUT, NO_KERNELS, NO_MEMORY, NO_THREADS, kernels, library
from cls_runtime.engines.native.structures import GRAPH_OUTPUT_OF, OUTPUTS, BatchSpec, HeldModel, held_model
from cls_runtime.engines.native.weights import NativeModel
from cls_runtime.errors import ClosedError, EngineError

# Without padding a batch need only be large enough. Measured with all-MiniLM-L6-v2 in fp32 on two threads, 151 texts, CPU seconds of the
# process: 0.63 with 64 tokens, 0.59 with 128, 0.57 to 0.59 from 256 to 2048.
BATCHING = Batching(token_budget=512, full_tokens=512, pads=False)
_OUTPUT_OF_GRAPH = {graph_name: name for name, graph_name in GRAPH_OUTPUT_OF.items()}


class NativeEngine:
    """A model in the library. It holds the model's arrays, which the library reads where they lie.

    Args:
        model: the model, whose sizes fit each other (`weights_file` checks them).
        threads: CPU threads that all runs together use.
        kernels: a kernel family of `kernels().usable`; None for the best.

    Raises:
        MissingExtraError: cls-export-native is not installed.
        EngineError: it is broken or of another version, has no such kernels, or gets no threads or memory.
    """

    name = "native"
    batching = BATCHING

    def __init__(self, model: NativeModel, *, threads: int, kernels: str | None = None) -> None:
        self._library = library()
        self._held = held_model(model)
        self._widths = {name: model.widths[name] for name in OUTPUTS if name in model.widths}
        self._model = _open(self._library, self._held, threads=threads, kernels=kernels)
        self.workers = threads
        self.providers = (f"CPU {self._library.cls_kernels_of(self._model).decode()}",)
        self._process = os.getpid()
        self._closed = False
        self._running = 0
        self._idle = threading.Condition()
        # Of an engine that is dropped. Not at the interpreter's exit, where a thread may be in a run still.
        self._free = weakref.finalize(self, _close, self._library, self._model, self._held, self._process)
        self._free.atexit = False

    def padding_tokens(self, batch: TokenBatch) -> int:  # noqa: ARG002  there is none
        """How many tokens of padding a run of this batch computes beside its own."""
        return 0

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: the model has no such output or takes no such tokens, there is no memory, or this is another process.
            ClosedError: `close` was called.
        """
        if os.getpid() != self._process:
            raise EngineError(
                f"this engine was loaded in process {self._process}, its threads do not exist in process {os.getpid()}; load it there"
            )
        with self._idle:
            if self._closed:
                raise ClosedError("the engine is closed; load the bundle again")
            self._running += 1
        try:
            return [self._output(batch, name) for name in outputs]
        finally:
            with self._idle:
                self._running -= 1
                self._idle.notify_all()

    def close(self) -> None:
        """Waits for the batches that run, and frees the model and its threads. May be called more than once."""
        if os.getpid() != self._process:
            self._closed = True
            return  # the threads, and whoever held the lock, are the parent's
        with self._idle:
            self._closed = True
            while self._running:
                self._idle.wait()
            self._free()

    def _output(self, batch: TokenBatch, graph_output: str) -> Float32:
        name = _OUTPUT_OF_GRAPH.get(graph_output)
        if name is None or name not in self._widths:
            raise EngineError(
                f"the bundle's native weights have no output {graph_output!r}, expected one of "
                f"{', '.join(GRAPH_OUTPUT_OF[held] for held in self._widths)}; name another engine, or export the bundle again"
            )
        rows = np.empty((batch.tokens if name == "tokens" else batch.texts, self._widths[name]), dtype=np.float32)
        arrays = [_int32(values) for values in (batch.input_ids, batch.lengths, batch.token_type_ids, batch.unpooled)]
        self._check_arrays(batch, arrays)
        pointers = [None if array is None else array.ctypes.data for array in arrays]
        spec = BatchSpec(batch.texts, batch.tokens, *pointers)
        result = self._library.cls_run(self._model, ctypes.byref(spec), OUTPUTS.index(name), rows.ctypes.data)
        if result == BAD_INPUT:
            raise EngineError(
                f"the model does not take a batch of {batch.texts} texts and {batch.tokens} tokens: a token, a type or a length is out of "
                "its range; the tokenizer is another model's, or the bundle's native weights are, export it again"
            )
        if result:
            reason = "there is no memory for it" if result == NO_MEMORY else f"the library says {result}"
            raise EngineError(f"a batch of {batch.texts} texts and {batch.tokens} tokens failed: {reason}")
        return rows

    @staticmethod
    def _check_arrays(batch: TokenBatch, arrays: Sequence[Int32 | None]) -> None:
        """The library reads as many numbers as it is told of."""
        expected = (batch.tokens, batch.texts, batch.tokens, batch.texts)
        sizes = [size if array is None else array.size for size, array in zip(expected, arrays, strict=True)]
        if tuple(sizes) != expected:
            raise EngineError(
                f"a batch has arrays of {', '.join(map(str, sizes))} numbers, expected {', '.join(map(str, expected))} "
                "(ids, lengths, types, unpooled)"
            )


def _int32(values: Int32 | None) -> Int32 | None:
    return None if values is None else np.ascontiguousarray(values, dtype=np.int32)


def _open(loaded: ctypes.CDLL, held: HeldModel, *, threads: int, kernels: str | None) -> ctypes.c_void_p:
    model = ctypes.c_void_p()
    result = loaded.cls_open(ctypes.byref(held.spec), None if kernels is None else kernels.encode(), threads, ctypes.byref(model))
    if result == NO_KERNELS:
        raise EngineError(f"there are no kernels {kernels!r} on this machine, expected one of {', '.join(_usable())}")
    if result or model.value is None:
        reasons = {
            NO_MEMORY: "there is no memory for it",
            NO_THREADS: f"{threads} threads cannot be started; let the process have more of them",
            BAD_INPUT: "the library does not take its sizes; export the bundle again",
        }
        raise EngineError(f"the native engine cannot load the model: {reasons.get(result, f'the library says {result}')}")
    return model


def _usable() -> tuple[str, ...]:
    return kernels().usable


def _close(loaded: ctypes.CDLL, model: ctypes.c_void_p, _held: HeldModel, process: int) -> None:
    """Frees a model; the arrays that it reads live until then."""
    if os.getpid() == process:
        loaded.cls_close(model)
