"""The smallest graph that proves that an engine works: about a hundred bytes, a file of this package.

sentence_embedding [B, S] = Cast(input_ids [B, S], to=float32)
"""

from __future__ import annotations

import numpy as np

from cls_runtime.engines.base import EngineModule, TokenBatch
from cls_runtime.engines.hand_made_graphs import FLOAT, GRAPHS, INPUTS, OUTPUT, graph_bundle, graph_file, node
from cls_runtime.errors import EngineError

VARIANT = "fp32"


def probe(engine: EngineModule) -> tuple[str, ...]:
    """Loads the graph in an engine and runs it; gives the providers that computed.

    Args:
        engine: an engine's module.

    Raises:
        ClsError: the engine is not installed, cannot load the graph, or computes something else.
    """
    loaded = engine.load(graph_bundle(GRAPHS, [VARIANT], width=1), variant=VARIANT, threads=1)
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
    """The graph as an ONNX file, as it lies in `GRAPHS`."""
    return graph_file("probe", [node("Cast", INPUTS[:1], OUTPUT, {"to": FLOAT})])
