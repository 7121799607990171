"""The smallest model that the native engine can show with that it works: a text's vector is its first token's row of a table."""

from __future__ import annotations

import numpy as np

from cls_runtime.engines.base import TokenBatch
from cls_runtime.engines.native.engine import NativeEngine
from cls_runtime.engines.native.library import kernels
from cls_runtime.engines.native.structures import GRAPH_OUTPUT_OF
from cls_runtime.engines.native.weights import LANES, PANEL, Embeddings, Layer, NativeModel, Product
from cls_runtime.errors import EngineError

_VOCABULARY = 5


def probe() -> str:
    """Loads the model and runs it; gives what computed, and the kernels that this CPU has.

    Raises:
        ClsError: the library is not installed, cannot be loaded, or computes something else.
    """
    model = probe_model()
    engine = NativeEngine(model, threads=1)
    try:
        ids = np.array([3, 1, 4], dtype=np.int32)
        batch = TokenBatch(ids, np.array([2, 1], dtype=np.int32), token_type_ids=np.zeros_like(ids))
        (computed,) = engine.run(batch, [GRAPH_OUTPUT_OF["sentence"]])
        expected = model.embeddings.words[[3, 4]]
        if not np.array_equal(computed, expected):
            raise EngineError(f"native computed {computed[:, :2].tolist()}, expected {expected[:, :2].tolist()}; install it again")
        return f"{engine.providers[0]} of {', '.join(kernels().usable)}"
    finally:
        engine.close()


def probe_model() -> NativeModel:
    """A layer whose products are zero, so that what it adds to a row is nothing."""

    def product(depth: int, width: int) -> Product:
        return Product(bias=np.zeros(width, np.float32), floats=np.zeros((width // PANEL, depth, PANEL), np.float32))

    square = product(PANEL, PANEL)
    layer = Layer(
        query_key_value=product(PANEL, 3 * PANEL),
        attention_output=square,
        up=square,
        down=square,
        attention_norm=None,
        feed_forward_norm=None,
        activation="gelu",
        pre_norm=True,
    )
    words = np.arange(_VOCABULARY * PANEL, dtype=np.float32).reshape(_VOCABULARY, PANEL)
    return NativeModel(
        hidden_size=PANEL,
        heads=PANEL // LANES,
        head_size=LANES,
        max_length=4,
        mean_pooled=False,
        embeddings=Embeddings(words=words),
        layers=(layer,),
        widths={"sentence": PANEL},
    )
