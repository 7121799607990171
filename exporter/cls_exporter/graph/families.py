"""What the graph of each architecture must show after the passes: one line a family.

The passes know operators, not models. A family says what they can achieve in it, so that a rewrite that silently stopped to match is an
error and not a slower graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Family:
    """One architecture's graph; `model_type` is its key in `checkpoint.architectures` too.

    `reassociated_products` is how many products of the last attention (keys, values) `passes.single_query_attention` spares: rotated or
    disentangled keys have to be computed. `fused_attention` says that one operator computes an attention over all tokens on a GPU:
    disentangled attention picks two more terms for every pair of tokens, for which there is none.
    """

    model_type: str
    reassociated_products: int = 2
    fused_attention: bool = True


_TABLE = (
    Family(model_type="bert"),
    Family(model_type="roberta"),
    Family(model_type="xlm-roberta"),
    Family(model_type="camembert"),
    Family(model_type="distilbert"),
    Family(model_type="electra"),
    Family(model_type="mpnet"),
    Family(model_type="albert"),
    Family(model_type="ernie"),
    Family(model_type="deberta-v2", reassociated_products=0, fused_attention=False),
    Family(model_type="roformer", reassociated_products=1),
    Family(model_type="modernbert", reassociated_products=1),
)

FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _TABLE}
