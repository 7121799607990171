"""Runs an ONNX file that is in no bundle: an export measures activations with it while it makes an int8 variant."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import onnxruntime

from cls_runtime.cpu import available_cpus
from cls_runtime.engines.base import Float32, TokenBatch


def run_graph(path: Path, batches: Iterable[TokenBatch], outputs: Sequence[str]) -> Iterator[list[Float32]]:
    """The `outputs` of the graph at `path` for each batch, on ONNX Runtime's CPU provider with all CPUs of this process."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = available_cpus()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_mem_pattern = False  # a pattern is kept for each input shape
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [item.name for item in session.get_inputs()]
    for batch in batches:
        yield cast("list[Float32]", session.run(list(outputs), {name: getattr(batch, name) for name in names}))
