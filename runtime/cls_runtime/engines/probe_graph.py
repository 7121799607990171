"""The smallest graph that an engine can show with that it works, in a hundred-odd bytes and without the onnx package.

sentence_embedding [B, S] = Cast(input_ids [B, S], to=float32)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cls_runtime.engines.base import EngineModule, TokenBatch
from cls_runtime.engines.hand_made_graphs import FLOAT, INPUTS, OUTPUT, graph_bundle, graph_file, node
from cls_runtime.errors import EngineError


def probe(engine: EngineModule, folder: Path) -> tuple[str, ...]:
    """Loads the graph in an engine and runs it; gives the providers that computed.

    Args:
        engine: an engine's module.
        folder: an empty folder for the graph's file.

    Raises:
        ClsError: the engine is not installed, cannot load the graph, or computes something else.
    """
    loaded = engine.load(graph_bundle(folder, {"fp32": graph_bytes()}, width=1), variant="fp32", threads=1)
    try:
        ids = np.array([[3, 1, 4]], dtype=np.int32)
        (computed,) = loaded.run(TokenBatch(ids[0], np.array([3], dtype=np.int32)), [OUTPUT])
        if computed.dtype != np.float32 or not np.array_equal(computed, ids):
            raise EngineError(
                f"{loaded.name} computed {computed.tolist()} ({computed.dtype}), expected {ids.tolist()} as float32; install it again"
            )
        return loaded.providers
    finally:
        loaded.close()


def graph_bytes() -> bytes:
    """The graph as an ONNX file."""
    return graph_file("probe", [node("Cast", INPUTS[:1], OUTPUT, {"to": FLOAT})])
