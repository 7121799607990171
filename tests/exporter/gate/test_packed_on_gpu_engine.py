"""Packed files as the GPU's engine runs them: filled up to few sizes, and by way of CUDA graphs' thread. On a CPU, operators spelled out.

Rows behind the last text are NaN there, as a GPU leaves them unwritten.
"""

from __future__ import annotations

import time
from pathlib import Path

import checkpoints
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from exports import ExportStore

from cls_exporter.gate.packed_engine import PackedEngine, load_packed
from cls_exporter.graph.families import FAMILIES
from cls_exporter.graph.graph_file import save_graph
from cls_exporter.graph.passes.packed_expansion import PackedExpansion
from cls_runtime.bundle.folder import Bundle
from cls_runtime.bundle.manifest import GRAPH_OUTPUTS
from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.cuda import graphs
from cls_runtime.engines.cuda.engine import GpuEngine
from cls_runtime.engines.cuda.load import engine_of
from cls_runtime.engines.cuda.memory import Device

LONG = 60  # seconds
LENGTHS = [(3,), (7, 2, 5), (9,) * 12, (4, 30, 3), (20,) * 40, (31,) * 34]
PACKED = [item for item in checkpoints.families(always=("bert", "roberta")) if FAMILIES[getattr(item, "values", (item,))[0]].packed]


def engines(folder: Path, tmp_path: Path) -> tuple[GpuEngine, PackedEngine, list[str]]:
    """The GPU's engine on a CPU, and the gate's, which fills nothing up."""
    bundle = Bundle.open(folder)
    path = bundle.graph("fp16", engine="cuda")
    model = ir.load(path)
    PackedExpansion()(model)
    expanded = tmp_path / path.name
    save_graph(model, expanded)

    def session() -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        return onnxruntime.InferenceSession(str(expanded), options, providers=["CPUExecutionProvider"])

    engine = engine_of(session(), bundle.manifest, path, device=Device("cpu"), open_capturing=session)
    return engine, load_packed(path, bundle.manifest), [GRAPH_OUTPUTS[name] for name in bundle.manifest.recorded_outputs]


def batch_of(lengths: tuple[int, ...], *, pad_id: int, seed: int) -> TokenBatch:
    random = np.random.default_rng(seed)
    tokens = sum(lengths)
    ids = random.integers(5, 30, tokens).astype(np.int32)
    return TokenBatch(ids, np.array(lengths, dtype=np.int32), np.zeros(tokens, dtype=np.int32), pad_id=pad_id)


@pytest.mark.parametrize("model_type", PACKED)
def test_fillers_change_no_vector(store: ExportStore, model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "SMALL_BATCHES_FIRST", 0)
    engine, plain, outputs = engines(store.exported(model_type, "encoder").bundle, tmp_path)
    pad_id = checkpoints.special_ids(model_type)["pad"]
    for turn in range(3):  # without CUDA graphs, while they are made, with them
        for seed, lengths in enumerate(LENGTHS):
            batch = batch_of(lengths, pad_id=pad_id, seed=seed)
            for ours, theirs in zip(engine.run(batch, outputs), plain.run(batch, outputs), strict=True):
                np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        end = time.monotonic() + LONG
        while not turn and engine._graphs is not None and not engine._graphs._desk.opened:
            assert engine._graphs._desk.failure is None
            assert time.monotonic() < end
            time.sleep(0.01)
    assert engine._graphs is not None
    assert engine._graphs._desk.failure is None
    assert engine._graphs.count >= 3
    engine.close()
