"""One self-attention as the tracer writes it, for the tests of the passes that scale and fuse it: x [B, S, 8], A 2 heads of D 4."""

from __future__ import annotations

import graphs
import numpy as np
import onnx_ir as ir

WEIGHTS = graphs.random_weights(wq=(8, 8), bq=(8,), wk=(8, 8), bk=(8,), wv=(8, 8), bv=(8,), table=(1, 2, 1, 1), wo=(8, 8), bo=(8,))
CONSTANTS = {
    "scale": np.array(0.5, dtype=np.float32),
    "root": np.array(2.0, dtype=np.float32),
    "one": np.array(1.0, dtype=np.float32),
    "unmasked": np.array(0.0, dtype=np.float32),
    "masked": np.array(np.finfo(np.float32).min, dtype=np.float32),
    **graphs.integers({"heads": (0, 0, 2, 4), "rows": (0, 0, 8), "axes": (1, 2)}),
}
SPLIT = "p{0} = MatMul(x, w{0})  f{0} = Add(p{0}, b{0})  h{0} = Reshape(f{0}, heads)"
SWAP = "{0} = Transpose <perm = [0, 2, 1, 3]> (h{0})"
KEYS = "k = Transpose <perm = [0, 2, 3, 1]> (hk)"
MASK = "kept = Cast <to = 9> (attention_mask)  row = Unsqueeze(kept, axes)  mask = Where(row, unmasked, masked)"
SCORES = "s = MatMul(q, k)"
SCALED = "z = Mul(s, scale)"
TERMS = "m = Add(z, mask)"
CONTEXT = "c = MatMul(weights, v)  t = Transpose <perm = [0, 2, 1, 3]> (c)  y = Reshape(t, rows)"


def attention(
    *,
    keys: str = KEYS,
    scores: str = SCORES,
    scaled: str = SCALED,
    terms: str = TERMS,
    softmax: str = "weights = Softmax <axis = -1> (m)",
    context: str = CONTEXT,
    inputs: str = "float[B,S,8] x, int64[B,S] attention_mask",
    outputs: str = "float[B,S,8] y",
    mask: str = MASK,
) -> ir.Model:
    """`softmax(q k^T * scale + mask) v`; each part may be another."""
    parts = [SPLIT.format(name) for name in "qkv"] + [
        SWAP.format("q"),
        keys,
        SWAP.format("v"),
        mask,
        scores,
        scaled,
        terms,
        softmax,
        context,
    ]
    return graphs.parse(f"g ({inputs}) => ({outputs}) {{ {'  '.join(parts)} }}", {**WEIGHTS, **CONSTANTS})
