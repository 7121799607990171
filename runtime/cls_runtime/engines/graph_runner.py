"""Runs an ONNX file that is in no bundle as it is: an export measures activations with it, and holds to PyTorch what only GPUs run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, cast

from numpy.typing import NDArray

from cls_runtime.bundle.folder import path_for_libraries
from cls_runtime.engines.base import Float32
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.onnxruntime import first_line, import_package
from cls_runtime.engines.padding import PaddedBatch
from cls_runtime.errors import EngineError

_BATCHES_AT_ONCE = 64


class GraphRunner:
    """The graph at `path` on ONNX Runtime's CPU provider, each run on the thread that calls it.

    Sessions of two threads that do not spin were seen to wait for each other for ever (onnxruntime 1.31).

    Attributes:
        inputs: the graph's, by name.
        outputs: the graph's, by name.

    Raises:
        EngineError: ONNX Runtime cannot load it.
    """

    def __init__(self, path: Path) -> None:
        onnxruntime = import_package()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.enable_mem_pattern = False  # a pattern is kept for each input shape
        options.log_severity_level = 3
        try:
            with path_for_libraries(path) as graph:
                self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its exceptions have no common base class
            raise EngineError(f"ONNX Runtime cannot load {path.name}: {first_line(error)}") from error
        self.inputs = tuple(item.name for item in self._session.get_inputs())
        self.outputs = tuple(item.name for item in self._session.get_outputs())

    def run(self, feeds: Mapping[str, NDArray[Any]], outputs: Sequence[str]) -> list[Float32]:
        """The `outputs` for these inputs.

        Raises:
            EngineError: ONNX Runtime failed.
        """
        try:
            return cast("list[Float32]", self._session.run(list(outputs), dict(feeds)))
        except Exception as error:  # its exceptions have no common base class
            shapes = ", ".join(f"{name} {list(array.shape)}" for name, array in feeds.items())
            raise EngineError(f"ONNX Runtime failed on {shapes}: {first_line(error)}") from error


def run_graph(path: Path, batches: Iterable[PaddedBatch], outputs: Sequence[str]) -> Iterator[list[Float32]]:
    """The `outputs` of the graph at `path` for each batch, in order, with all CPUs of this process."""
    graph = GraphRunner(path)

    def run(batch: PaddedBatch) -> list[Float32]:
        return graph.run({name: getattr(batch, name) for name in graph.inputs}, outputs)

    remaining = iter(batches)
    with ThreadPoolExecutor(available_cpus()) as workers:
        while window := list(islice(remaining, _BATCHES_AT_ONCE)):
            yield from workers.map(run, window)
