"""ONNX Runtime's operators of a packed graph in numpy, for onnx's reference evaluator.

What each computes is ONNX Runtime's docs/ContribOperators.md. What no text's row depends on, the operators leave as it is in memory; here
it is NaN, so that whoever reads it all the same gives no number. Sums are float64, and what comes out has the type that came in.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

Array = NDArray[Any]
Float64 = NDArray[np.float64]

# An operator's class has the operator's name: that is how onnx finds it.


class PackedMultiHeadAttention(OpRun):
    """Attention of each text's tokens to the same text's: those of text b are the rows `cumulative_sequence_length[b : b + 2]`."""

    op_domain = "com.microsoft"

    def _run(
        self,
        query: Array,
        key: Array,
        value: Array,
        bias: Array | None,
        token_offset: Array,
        cumulative_sequence_length: Array,
        attention_bias: Array | None = None,
        num_heads: int = 0,
        scale: float | None = None,
        mask_filter_value: float | None = None,
    ) -> tuple[Array]:
        del mask_filter_value  # nothing is masked: no text sees another's tokens
        assert (token_offset.ndim, cumulative_sequence_length.shape) == (2, (len(token_offset) + 1,))
        assert cumulative_sequence_length[0] == 0
        q, k, v = (_heads(item, num_heads) for item in _biased(query, key, value, bias))  # [A, T, D]
        factor = scale or 1 / math.sqrt(q.shape[-1])
        context = np.full((len(query), value.shape[1]), np.nan)
        bounds = cumulative_sequence_length.tolist()
        for text, (begin, end) in enumerate(itertools.pairwise(bounds)):
            length = end - begin
            assert 0 <= length <= token_offset.shape[1], "a text has more tokens than the batch has places"
            scores = factor * (q[:, begin:end] @ k[:, begin:end].transpose(0, 2, 1))
            if attention_bias is not None:
                scores = scores + attention_bias[text % len(attention_bias), :, :length, :length].astype(np.float64)
            context[begin:end] = (_softmax(scores) @ v[:, begin:end]).transpose(1, 0, 2).reshape(length, value.shape[1])
        return (context.astype(query.dtype),)


class RestorePadding(OpRun):
    """Row t goes to place `token_offset[t]` of [B, S]; places that no row goes to are 0."""

    op_domain = "com.microsoft"

    def _run(self, rows: Array, token_offset: Array) -> tuple[Array]:
        places = token_offset.reshape(-1)
        restored = np.zeros((len(places), rows.shape[1]), dtype=rows.dtype)
        count = min(len(rows), len(places))
        restored[places[:count]] = rows[:count]
        return (restored.reshape(*token_offset.shape, rows.shape[1]),)


class SkipLayerNormalization(OpRun):
    """LayerNormalization of `x + skip + bias` over the last axis, and that sum as output 3."""

    op_domain = "com.microsoft"

    def _run(
        self, x: Array, skip: Array, gamma: Array, beta: Array | None = None, bias: Array | None = None, epsilon: float = 1e-12
    ) -> tuple[Array | None, ...]:
        total = x.astype(np.float64) + skip + (0 if bias is None else bias)
        centred = total - total.mean(-1, keepdims=True)
        normed = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + epsilon) * gamma + (0 if beta is None else beta)
        made = (normed.astype(x.dtype), None, None, total.astype(x.dtype))
        return made[: len(self.onnx_node.output)]


class BiasGelu(OpRun):
    """The exact GELU of `x + bias`."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array) -> tuple[Array]:
        total = x.astype(np.float64) + bias
        erf = np.vectorize(math.erf, otypes=[np.float64])
        return ((total * 0.5 * (1 + erf(total / math.sqrt(2)))).astype(x.dtype),)


class FastGelu(OpRun):
    """GELU by tanh, of `x + bias`."""

    op_domain = "com.microsoft"

    def _run(self, x: Array, bias: Array | None = None) -> tuple[Array]:
        total = x.astype(np.float64) + (0 if bias is None else bias)
        return ((0.5 * total * (1 + np.tanh(math.sqrt(2 / math.pi) * (total + 0.044715 * total**3)))).astype(x.dtype),)


OPERATORS = [PackedMultiHeadAttention, RestorePadding, SkipLayerNormalization, BiasGelu, FastGelu]


def run(model: ir.Model, feeds: Mapping[str, Array], outputs: Sequence[str] | None = None) -> dict[str, Array]:
    """The outputs of a graph by name, computed by the operators above and onnx's own."""
    evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=OPERATORS)
    names = list(outputs) if outputs is not None else [str(value.name) for value in model.graph.outputs]
    results: Any = evaluator.run(names, dict(feeds))
    return dict(zip(names, results, strict=True))


def _biased(query: Array, key: Array, value: Array, bias: Array | None) -> list[Float64]:
    parts = [item.astype(np.float64) for item in (query, key, value)]
    if bias is None:
        return parts
    assert bias.shape == (sum(part.shape[1] for part in parts),)
    width = query.shape[1]
    return [part + own for part, own in zip(parts, np.split(bias, [width, 2 * width]), strict=True)]


def _heads(rows: Float64, heads: int) -> Float64:
    """[A, T, D] of [T, A*D]."""
    return rows.reshape(len(rows), heads, -1).transpose(1, 0, 2)


def _softmax(scores: Float64) -> Float64:
    if scores.size == 0:
        return scores
    weights: Float64 = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)
