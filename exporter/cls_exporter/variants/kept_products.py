"""Which products over all tokens an int8 graph computes in float32, where every row of the last layer counts."""

from __future__ import annotations

import onnx_ir as ir

from cls_exporter.graph.families import Form
from cls_exporter.graph.passes.rewriting import known_dims
from cls_exporter.graph.passes.token_rows import batched_products


def keepings(model: ir.Model, form: Form) -> tuple[frozenset[str], ...]:
    """The names of the weights whose products stay in float32, each set larger than the one before; `model` is a graph before `TokenRows`.

    A graph that computes one row of the last layer keeps none: that row sees what all tokens' errors leave on average. A mean of rows, and
    each row, has the errors of its own tokens, those of a short text's few above all, and how large they are is the model's matter. Most
    come of the feed-forward's second product, whose weight [K, N] is narrowing and whose input is GELU's, then of its first, which is
    widening; docs/adr/0003-int8-recipe.md has the figures. The projection of factorized embeddings (ALBERT, ELECTRA) goes with that. What
    is left is the attention's.
    """
    none: frozenset[str] = frozenset()
    if form.one_row:
        return (none,)
    shapes = {str(node.inputs[1].name): known_dims(node.inputs[1]) for node in batched_products(model)}  # type: ignore[union-attr, arg-type]
    narrowing = {name for name, (width, made) in shapes.items() if int(width) > int(made)}
    feed_forward = {name for name, (width, made) in shapes.items() if int(width) != int(made)}
    tried = dict.fromkeys((none, frozenset(narrowing), frozenset(feed_forward)))
    return tuple(kept for kept in tried if len(kept) < len(shapes)) or (none,)
