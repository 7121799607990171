"""A packed graph where there is no GPU: its operators are spelled out for ONNX Runtime's CPU provider, its batches packed as for a GPU."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx_ir as ir

from cls_exporter.errors import GraphError
from cls_exporter.graph.graph_file import save_graph
from cls_exporter.graph.passes.packed_expansion import PackedExpansion
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS, Manifest
from cls_runtime.engines.base import Batching, Float32, TokenBatch
from cls_runtime.engines.cpu import available_cpus
from cls_runtime.engines.cuda.shapes import filled, shape_for
from cls_runtime.engines.graph_runner import GraphRunner
from cls_runtime.engines.onnxruntime import PROVIDER
from cls_runtime.engines.packing import INPUTS, packed
from cls_runtime.errors import ClosedError, EngineError


class PackedEngine:
    """A packed graph on a CPU. Made by `load_packed`; `run` may be called from several threads at once."""

    name = "onnxruntime"
    providers: tuple[str, ...] = (PROVIDER,)
    batching = Batching(token_budget=1024, full_tokens=128)  # attention is padded here, so batches are as for padded graphs

    def __init__(self, graph: GraphRunner, *, workers: int) -> None:
        self._graph: GraphRunner | None = graph
        self.workers = workers

    def padding_tokens(self, batch: TokenBatch) -> int:  # noqa: ARG002  as every engine
        """None: what the graph computes for all tokens has no padding."""
        return 0

    def run(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """Runs one batch; float32 [B, width] for each graph output named in `outputs`, of `last_hidden_state` [T, width].

        Raises:
            EngineError: ONNX Runtime failed.
            ClosedError: `close` was called.
        """
        graph = self._open()
        return graph.run(packed(batch, graph.inputs), outputs)

    def run_filled_up(self, batch: TokenBatch, outputs: Sequence[str]) -> list[Float32]:
        """What `run` gives, computed with further texts of padding behind the batch's, as the engine of GPUs fills batches up."""
        graph = self._open()
        made = graph.run(filled(batch, shape_for(batch), graph.inputs), outputs)
        counts = [batch.tokens if name == GRAPH_OUTPUTS["tokens"] else batch.texts for name in outputs]
        return [rows[:count] for rows, count in zip(made, counts, strict=True)]

    def _open(self) -> GraphRunner:
        if self._graph is None:
            raise ClosedError("the engine is closed; load the graph again")
        return self._graph

    def close(self) -> None:
        """Frees the graph."""
        self._graph = None


def load_packed(path: Path, manifest: Manifest) -> PackedEngine:
    """Loads a packed ONNX file, which `manifest` need not name.

    Raises:
        GraphError: ONNX Runtime cannot load it, it has inputs that a packed batch lacks, other outputs than the manifest says, or nothing
            in it is packed.
    """
    model = ir.load(path)
    if not PackedExpansion()(model).modified:
        raise GraphError(f"{path.name} has no packed operator, expected at least one per layer")
    with tempfile.TemporaryDirectory() as folder:
        expanded = Path(folder, path.name)
        save_graph(model, expanded)
        try:
            graph = GraphRunner(expanded)
        except EngineError as error:
            raise GraphError(f"a packed graph cannot be run without a GPU: {error}; please report it") from error
    for kind, names, known in (
        ("inputs", graph.inputs, INPUTS),
        ("outputs", graph.outputs, tuple(GRAPH_OUTPUTS[output] for output in manifest.recorded_outputs)),
    ):
        if unknown := sorted(set(names) - set(known)):
            raise GraphError(f"{path.name} has {kind} {', '.join(unknown)}, expected only {', '.join(known)}")
    if missing := sorted({GRAPH_OUTPUTS[output] for output in manifest.recorded_outputs} - set(graph.outputs)):
        raise GraphError(f"{path.name} has no output {', '.join(missing)}, which the manifest names")
    return PackedEngine(graph, workers=available_cpus())
