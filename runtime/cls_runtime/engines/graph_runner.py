"""Runs an ONNX file that is in no bundle: an export measures activations with it while it makes an int8 variant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import cast

from cls_runtime.bundle.folder import path_for_libraries
from cls_runtime.engines.base import Float32
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.onnxruntime import import_package
from cls_runtime.engines.padding import PaddedBatch

_BATCHES_AT_ONCE = 64


def run_graph(path: Path, batches: Iterable[PaddedBatch], outputs: Sequence[str]) -> Iterator[list[Float32]]:
    """The `outputs` of the graph at `path` for each batch, in order, on ONNX Runtime's CPU provider with all CPUs of this process.

    Each run stays on one thread: sessions of two threads that do not spin were seen to wait for each other for ever (onnxruntime 1.31).
    """
    onnxruntime = import_package()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.enable_mem_pattern = False  # a pattern is kept for each input shape
    options.log_severity_level = 3
    with path_for_libraries(path) as graph:
        session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]

    def run(batch: PaddedBatch) -> list[Float32]:
        return cast("list[Float32]", session.run(list(outputs), {name: getattr(batch, name) for name in names}))

    remaining = iter(batches)
    with ThreadPoolExecutor(available_cpus()) as workers:
        while window := list(islice(remaining, _BATCHES_AT_ONCE)):
            yield from workers.map(run, window)
