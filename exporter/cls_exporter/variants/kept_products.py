"""Which products over all tokens an int8 graph computes in float32, where every row of the last layer counts."""

from __future__ import annotations

from collections import Counter

import onnx_ir as ir

from cls_exporter.graph.families import Form
from cls_exporter.graph.passes.rewriting import known_dims, produced_by
from cls_exporter.graph.passes.token_rows import batched_products


def kept_products(model: ir.Model, form: Form) -> frozenset[str]:
    """The names of the weights whose products stay in float32; `model` is a graph before `TokenRows`.

    Of a graph that computes one row of the last layer none: that row sees what all tokens' errors leave on average. A mean of rows, and
    each row, has the errors of its own tokens, those of a short text's few above all. Their largest part comes of the products that add to
    the residual, so these stay as they are: a feed-forward's second, whose weight [K, N] is narrowing, and the one that reads attention's
    context. So does the last layer, behind which nothing makes less of an error. docs/adr/0003-int8-recipe.md has the figures.
    """
    if form.one_row:
        return frozenset()
    products = batched_products(model)
    kept = {_weight(node) for node in products if _adds_to_residual(node)}
    if form.layers > 1:
        readers = Counter(map(_weight, products))
        last = products[-(len(products) // form.layers) :]  # each needs all rows of the layer before it, so they come last
        kept |= {_weight(node) for node in last if readers[_weight(node)] == 1}
    return frozenset(kept)


def _weight(product: ir.Node) -> str:
    return str(product.inputs[1].name)  # type: ignore[union-attr]


def _adds_to_residual(product: ir.Node) -> bool:
    width, made = known_dims(product.inputs[1])  # type: ignore[arg-type]
    return int(width) > int(made) or produced_by(product.inputs[0], "Reshape") is not None
